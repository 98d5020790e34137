"""Requests for text: from their bodies to the answers of an engine, whole or as events."""
