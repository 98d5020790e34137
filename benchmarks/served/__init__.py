"""The parts of :mod:`benchmarks.serving`."""
