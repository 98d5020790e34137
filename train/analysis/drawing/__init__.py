"""Pictures of rows that were read back from their tables."""
