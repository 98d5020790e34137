"""Studies for ``python -m train.compare --config=<name>``."""
