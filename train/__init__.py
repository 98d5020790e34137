"""The application: fine-tune, evaluate and export a Llama with the methods of ``tera_jax``."""

import os

# transformers, here for its tokenizers, would advise at each start to install PyTorch.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
