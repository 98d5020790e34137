"""A run: its parts, its steps, its checkpoints, and how it stops."""
