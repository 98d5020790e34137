"""Adapters and merged weights on disk."""
