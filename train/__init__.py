"""The application: fine-tune, evaluate and export a Llama with the methods of ``tera_jax``."""
