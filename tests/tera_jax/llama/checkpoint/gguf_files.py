"""GGUF files for tests."""

import gguf
import jax
import numpy as np

from tera_jax.llama.checkpoint import names


def write_gguf(path, model, params, kind=gguf.GGMLQuantizationType.F32, **extra):
    """As llama.cpp's converter does: q and k of llama interleaved."""
    config, arch = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name in ("eot", "eom"):
        if name in extra:
            getattr(writer, f"add_{name}_token_id")(extra.pop(name))
    rows = extra.pop("rows", config)
    for key, value in extra.pop("fields", {}).items():
        {str: writer.add_string, int: writer.add_uint32}[type(value)](f"{arch}.{key}", value)
    for key_path, leaf in jax.tree.leaves_with_path(params):
        name = names.TABLE["/".join(key.key for key in key_path)]
        for layer, one in enumerate(leaf if "{}" in name.gguf else [leaf]):
            data = np.asarray(one.T if name.transposed else one)
            heads = {"q_proj": rows.num_heads, "k_proj": rows.num_kv_heads}
            for part, count in heads.items():
                if arch == "llama" and part in name.path:
                    halves = data.reshape(count, 2, rows.head_dim // 2, -1)
                    data = halves.swapaxes(1, 2).reshape(data.shape)
            data = np.ascontiguousarray(data)
            stored = kind if data.ndim == 2 else gguf.GGMLQuantizationType.F32
            data = gguf.quants.quantize(data, stored)
            writer.add_tensor(name.gguf.format(layer), data, raw_dtype=stored)
    for name, data in extra.items():
        writer.add_tensor(name.replace("__", "."), data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
