"""Training of many adapters in one run, of one base and one method: each has rows of a batch."""

from .pipeline import train

__all__ = ["train"]
