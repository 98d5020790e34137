"""The parts of :mod:`benchmarks.mixed_rows`."""
