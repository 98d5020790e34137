"""The tensors of GGUF files under Hugging Face's names, shapes and order of rows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import gguf
import numpy as np

from tera_jax.llama.checkpoint import gguf_rope, names
from tera_jax.llama.checkpoint.gguf_file import GgufFile, field
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.gguf_rows import ROWS, GgufRow

_SCALES = re.compile(r"model\.(layers\.\d+\.(.+)|)norm\.weight")
"""Hugging Face's names of the scales of norms."""


class GgufTensors:
    """The tensors of an open GGUF file.

    Attributes:
        shapes: of every tensor; one that our tables lack keeps its GGUF name.
        files: the file of every tensor, for messages.
    """

    def __init__(self, file: GgufFile, config: LlamaConfig):
        row = ROWS[field(file, "general.architecture")]
        templates = _templates(row)
        heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
        self._tensors: dict[str, Any] = {}
        self._heads: dict[str, int] = {}
        self._offset = config.norm_offset
        self.files = {}
        for path, tensor in file.tensors:
            if tensor.name in gguf_rope.TENSORS:  # the config was read from it
                continue
            name = _hf_name(tensor.name, templates)
            if name in self._tensors:
                raise ValueError(f"{path}: tensor {name} is there twice; fetch the file again")
            self._tensors[name], self.files[name] = tensor, path
            try:
                gguf.quants.dequantize(tensor.data[:1], tensor.tensor_type)
            except NotImplementedError as error:
                raise ValueError(
                    f"{path}: tensor {tensor.name} is stored as {tensor.tensor_type.name}, which "
                    "the package gguf cannot read; choose another quantisation"
                ) from error
            part = re.search(r"\.(q_proj|k_proj)\.(weight|bias)$", name)
            if row.interleaved and part is not None:
                self._heads[name] = heads[part[1]]
        self.shapes = {
            # GGUF counts the fastest axis first.
            name: tuple(int(size) for size in tensor.shape[::-1])
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str, index: Sequence[slice]) -> np.ndarray:
        """A slice of a tensor, dequantised to float32."""
        tensor = self._tensors[name]
        data = tensor.data
        if name in self._heads:
            rows = np.arange(self.shapes[name][0]).reshape(self._heads[name], -1, 2)
            data = data[rows.swapaxes(1, 2).reshape(-1)[index[0]]]
        else:
            data = data[index[0]]
        found = gguf.quants.dequantize(data, tensor.tensor_type)[(slice(None), *index[1:])]
        # llama.cpp stores what multiplies, 1 + w where a family has that.
        return found - np.float32(self._offset) if self._offset and _SCALES.match(name) else found


def _templates(row: GgufRow) -> Mapping[str, str]:
    """Hugging Face's name by GGUF's; ``{}`` is the layer."""
    found = {name.gguf: name.hf for name in names.TABLE.values() if name.gguf}
    for theirs, ours in row.tensors.items():
        for kind in ("weight", "bias"):
            found[f"blk.{{}}.{theirs}.{kind}"] = f"model.layers.{{}}.{ours}.{kind}"
    return found


def _hf_name(name: str, templates: Mapping[str, str]) -> str:
    """Hugging Face's name of a GGUF tensor, or its own where our tables have none."""
    layer = re.fullmatch(r"blk\.(0|[1-9]\d{0,9})\.(.+)", name)
    template = templates.get(name if layer is None else f"blk.{{}}.{layer[2]}")
    if template is not None:
        return template.format("" if layer is None else layer[1])
    return f"GGUF's {name}" if name.startswith(("model.", "lm_head.")) else name
