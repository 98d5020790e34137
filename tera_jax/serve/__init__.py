"""Many adapters of one base: where they are kept, and what answers requests to them.

docs/serving.md says how to use it.
"""
