"""Prints the table of docs/models.md: how far each family's logits are from transformers'."""

import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
import transformers

from tera_jax.llama import load_pretrained
from tests.tera_jax.llama.family.models import FAMILIES, save


def main() -> None:
    """One line a checkpoint."""
    print("| checkpoint | layers, width, heads | positions | largest difference / range |")
    print("| --- | --- | ---: | ---: |")
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as directory:
            path = save(family, Path(directory))
            theirs = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, attn_implementation="eager"
            ).eval()
            model, params = load_pretrained(path)
        config, length = model.config, 300 if "dynamic" in family else 24
        tokens_BL = np.random.default_rng(0).integers(3, 128, (2, length)).astype(np.int32)
        with torch.no_grad():
            expected = theirs(torch.tensor(tokens_BL)).logits.numpy()
        found = np.asarray(jax.jit(model.apply)({"params": params}, tokens_BL)[0])
        difference = np.max(np.abs(found - expected)) / np.ptp(expected)
        sizes = f"{config.num_layers}, {config.hidden_size}, {config.num_heads} x {config.head_dim}"
        print(f"| `{family}` | {sizes} | {length} | {difference:.1e} |")


if __name__ == "__main__":
    main()
