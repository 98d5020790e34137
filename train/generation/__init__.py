"""Answers of a base or a tuned model: to prompts, to a file of them, and in a terminal chat."""
