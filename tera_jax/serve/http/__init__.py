"""The HTTP server: OpenAI's API in front of an engine. docs/serving.md says how to use it."""
