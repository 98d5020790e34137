"""Conversations: their messages, calls of tools, chat templates, and token ids."""
