"""Plain weights as a GGUF file, which llama.cpp and programs that build on it run."""
