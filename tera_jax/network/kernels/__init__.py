"""Pallas kernels for networks of fast transforms, by the sides that they take."""
