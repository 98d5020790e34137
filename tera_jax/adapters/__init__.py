"""Methods applied to the layers of a model: found, intercepted, merged."""
