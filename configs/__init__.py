"""Recipes for ``python -m train.main --config=configs/<name>.py``."""
