"""Measurements; each prints the figures that docs/ quotes."""
