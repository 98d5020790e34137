"""Prompts, answers and scoring rules of the benchmarks."""
