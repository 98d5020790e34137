"""Counts of trained parameters, and what each device holds, by shapes alone."""
