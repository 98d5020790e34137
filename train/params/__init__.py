"""Counts of trainable parameters, and what each device holds, by shapes alone."""
