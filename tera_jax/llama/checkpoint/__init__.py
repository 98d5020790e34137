"""Checkpoints and tokenizers of Hugging Face and llama.cpp, read and written."""
