"""The families of decoders: what differs among them, and how their ``config.json`` is read."""
