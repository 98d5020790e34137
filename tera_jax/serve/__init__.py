"""Many adapters of one base: where they are kept. docs/serving.md says how to use it."""
