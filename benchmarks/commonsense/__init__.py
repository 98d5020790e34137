"""The third task of the study of methods: its records, runs, scores and tables."""
