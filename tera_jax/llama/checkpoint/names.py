"""The one table of what each parameter is called here, in Hugging Face files and in GGUF files."""

import re
from collections.abc import Mapping
from typing import NamedTuple


class Name(NamedTuple):
    """A parameter. ``{}`` is the layer; one leaf of ours stacks the tensors of all layers.

    Attributes:
        path: below ``params``.
        hf: the tensor in safetensors.
        gguf: the tensor in GGUF files of most architectures, or empty; a row of
            ``family/gguf_rows.py`` has the names that differ.
        transposed: kernels are stored (in, out) here and (out, in) there.
    """

    path: str
    hf: str
    gguf: str
    transposed: bool = False


_LAYER = (
    ("input_layernorm/scale", "input_layernorm.weight", "attn_norm.weight"),
    ("post_attention_layernorm/scale", "post_attention_layernorm.weight", "ffn_norm.weight"),
    (
        "pre_feedforward_layernorm/scale",
        "pre_feedforward_layernorm.weight",
        "",
    ),
    (
        "post_feedforward_layernorm/scale",
        "post_feedforward_layernorm.weight",
        "post_ffw_norm.weight",
    ),
    ("self_attn/q_proj/kernel", "self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn/q_proj/bias", "self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn/k_proj/kernel", "self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn/k_proj/bias", "self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn/v_proj/kernel", "self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn/v_proj/bias", "self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn/o_proj/kernel", "self_attn.o_proj.weight", "attn_output.weight"),
    ("self_attn/o_proj/bias", "self_attn.o_proj.bias", "attn_output.bias"),
    ("self_attn/q_norm/scale", "self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn/k_norm/scale", "self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("mlp/gate_proj/kernel", "mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp/up_proj/kernel", "mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp/gate_proj/bias", "mlp.gate_proj.bias", "ffn_gate.bias"),
    ("mlp/up_proj/bias", "mlp.up_proj.bias", "ffn_up.bias"),
    ("mlp/down_proj/kernel", "mlp.down_proj.weight", "ffn_down.weight"),
    ("mlp/down_proj/bias", "mlp.down_proj.bias", "ffn_down.bias"),
)

TABLE: dict[str, Name] = {
    name.path: name
    for name in (
        Name("embed_tokens/embedding", "model.embed_tokens.weight", "token_embd.weight"),
        *(
            Name(
                f"layers/{path}",
                f"model.layers.{{}}.{hf}",
                f"blk.{{}}.{gguf}",
                transposed=path.endswith("/kernel"),
            )
            for path, hf, gguf in _LAYER
        ),
        Name("norm/scale", "model.norm.weight", "output_norm.weight"),
        Name("lm_head/kernel", "lm_head.weight", "output.weight", transposed=True),
    )
}

FREQUENCIES = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
"""Tensors in older files that are computed from the config here."""


FUSED: dict[str, tuple[str, ...]] = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Modules of some families' files that are several of ours, the rows of these in this order."""
_PARTS = {part: whole for whole, parts in FUSED.items() for part in parts}


class Part(NamedTuple):
    """What a tensor has of a parameter: of one of its layers, or all of it where that is None."""

    path: str
    layer: int | None


def tensors(path: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """The Hugging Face tensors that make up a parameter, each with its shape there.

    Raises:
        ValueError: for a path that the table lacks.
    """
    if path not in TABLE:
        raise ValueError(f"parameter {path!r} has no name in files; add it to names.py")
    name = TABLE[path]
    stacked = "{}" in name.hf
    one = shape[1:] if stacked else shape
    one = one[::-1] if name.transposed else one
    return [(name.hf.format(layer), one) for layer in range(shape[0] if stacked else 1)]


def fused_name(tensor: str) -> str:
    """The tensor that holds one of ours in files whose modules are fused."""
    for part, whole in _PARTS.items():
        if f".{part}." in tensor:
            return tensor.replace(part, whole)
    return tensor


class Layout(NamedTuple):
    """Where the parameters of a model stand in its files.

    Attributes:
        shapes: of every tensor.
        parts: of every tensor, its rows one part after the other.
        first_row: of every part that shares a tensor, by the name of its own.
    """

    shapes: dict[str, tuple[int, ...]]
    parts: dict[str, list[Part]]
    first_row: dict[str, int]


def layout(shapes: Mapping[str, tuple[int, ...]], fused: bool) -> Layout:
    """The tensors of a model.

    Args:
        shapes: of every parameter, by its path below ``params``.
        fused: whether the files have the modules of :data:`FUSED`.

    Raises:
        ValueError: for a path that the table lacks.
    """
    found = Layout({}, {}, {})
    order = {part: place for place, part in enumerate(_PARTS)}

    def place(path: str) -> tuple[str, int]:
        """Parts of one tensor beside each other, in its order."""
        module = ".".join(path.split("/")[1:-1])
        return (f"layers/{_PARTS[module]}", order[module]) if module in order else (path, 0)

    for path in sorted(shapes, key=place) if fused else shapes:
        for layer, (own, shape) in enumerate(tensors(path, shapes[path])):
            name = fused_name(own) if fused else own
            stacked = "{}" in TABLE[path].hf
            rows, *rest = found.shapes.get(name, (0, *shape[1:]))
            found.first_row[own] = rows
            found.shapes[name] = (rows + shape[0], *rest)
            found.parts.setdefault(name, []).append(Part(path, layer if stacked else None))
    return found
