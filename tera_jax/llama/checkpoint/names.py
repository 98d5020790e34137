"""The one table of what each parameter is called here, in Hugging Face files and in GGUF files."""

import re
from typing import NamedTuple


class Name(NamedTuple):
    """A parameter. ``{}`` is the layer; one leaf of ours stacks the tensors of all layers.

    Attributes:
        path: below ``params``.
        hf: the tensor in safetensors.
        gguf: the tensor in GGUF.
        transposed: kernels are stored (in, out) here and (out, in) there.
    """

    path: str
    hf: str
    gguf: str
    transposed: bool = False


_LAYER = (
    ("input_layernorm/scale", "input_layernorm.weight", "attn_norm.weight"),
    ("post_attention_layernorm/scale", "post_attention_layernorm.weight", "ffn_norm.weight"),
    ("self_attn/q_proj/kernel", "self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn/q_proj/bias", "self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn/k_proj/kernel", "self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn/k_proj/bias", "self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn/v_proj/kernel", "self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn/v_proj/bias", "self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn/o_proj/kernel", "self_attn.o_proj.weight", "attn_output.weight"),
    ("self_attn/q_norm/scale", "self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn/k_norm/scale", "self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("mlp/gate_proj/kernel", "mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp/up_proj/kernel", "mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp/down_proj/kernel", "mlp.down_proj.weight", "ffn_down.weight"),
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
