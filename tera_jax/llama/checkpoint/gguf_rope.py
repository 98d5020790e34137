"""Rotary positions in GGUF files as the keys of a ``config.json``."""

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np

from tera_jax.llama import rope
from tera_jax.llama.family import rope_keys

_PLAIN = "rope_freqs.weight"
_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = frozenset((_PLAIN, _LONG, _SHORT))
"""Tensors from which the config is read."""
_CONVERT = "choose another file, or convert the Hugging Face checkpoint"


def scaling(
    values: Mapping[str, Any], tensors: Mapping[str, Any], rotary_dim: int, theta: float, kind: str
) -> dict[str, Any] | None:
    """The value of ``rope_scaling`` in ``config.json``.

    Llama 3.1's scaling is not in the metadata: the converter bakes it into the tensor
    ``rope_freqs.weight``, from which its parameters are found again. LongRoPE's factors are tensors
    too.

    Args:
        values: of the metadata, by :data:`tera_jax.llama.family.gguf_rows.KEYS`.
        tensors: by name.
        rotary_dim: entries of a head that turn.
        theta: of the frequencies.
        kind: the architecture, for messages.

    Raises:
        ValueError: for keys and tensors that contradict each other or are not implemented together,
            and frequencies that Llama 3.1's formula does not make.
    """
    given = {
        key.removeprefix("rope.scaling."): value
        for key, value in values.items()
        if key.startswith("rope.scaling.")
    }
    name, factor = given["type"], given["factor"]
    if name is None and {_LONG, _SHORT} & tensors.keys():
        name = "longrope"
    if name is None and factor not in (None, 1.0):
        name = "linear"  # llama.cpp's default
    if name in (None, "none"):
        name = None
    elif name != "longrope" and factor is None:
        raise ValueError(
            f"the GGUF file sets {kind}.rope.scaling.type to {name!r} and lacks "
            f"{kind}.rope.scaling.factor; {_CONVERT}"
        )
    if name in ("yarn", "longrope") and given["original_context_length"] is None:
        raise ValueError(
            f"the GGUF file lacks {kind}.rope.scaling.original_context_length, which {name} needs; "
            f"{_CONVERT}"
        )
    if name != "longrope" and given["attn_factor"] not in (None, 1.0):
        raise ValueError(
            f"the GGUF file sets {kind}.rope.scaling.attn_factor to {given['attn_factor']} without "
            f"LongRoPE, which is not implemented; {_CONVERT}"
        )
    _require_tensors(name, tensors)
    if _PLAIN in tensors:
        baked = _factors(tensors[_PLAIN], rotary_dim // 2)
        found = llama3(baked, rope.frequencies(rotary_dim, theta, None))
        return None if found is None else rope_keys.write_hf(found)
    return None if name is None else _keys(name, given, tensors, rotary_dim)


def _keys(
    name: str, given: Mapping[str, Any], tensors: Mapping[str, Any], rotary_dim: int
) -> dict[str, Any]:
    if name == "linear":
        return {"rope_type": name, "factor": given["factor"]}
    found = {
        "rope_type": name,
        "original_max_position_embeddings": given["original_context_length"],
    }
    if name == "yarn":
        betas = {f"beta_{each}": given[f"yarn_beta_{each}"] for each in ("fast", "slow")}
        return found | {"factor": given["factor"], **betas}
    if given["attn_factor"] is not None:
        found["attention_factor"] = given["attn_factor"]
    for key, tensor in (("short_factor", _SHORT), ("long_factor", _LONG)):
        factors = _factors(tensors[tensor], rotary_dim // 2)
        # The decimals that were rounded to float32.
        found[key] = [float(str(each)) for each in factors.astype(np.float32)]
    return found


def _require_tensors(name: str | None, tensors: Mapping[str, Any]) -> None:
    wanted = {_LONG, _SHORT} if name == "longrope" else set()
    found = TENSORS & tensors.keys()
    # Llama 3.1's has no type of its own.
    if found != wanted and not (name is None and found == {_PLAIN}):
        raise ValueError(
            f"the GGUF file has rope.scaling.type={name!r} and of the tensors of frequencies "
            f"{sorted(found) or 'none'}, not {sorted(wanted) or 'none'}; {_CONVERT}"
        )


def _factors(tensor: Any, count: int) -> np.ndarray:
    if tensor.tensor_type != gguf.GGMLQuantizationType.F32 or tensor.data.shape != (count,):
        raise ValueError(
            f"the GGUF tensor {tensor.name} has type {tensor.tensor_type.name} and shape "
            f"{tensor.data.shape}, not F32 and ({count},); fetch the file again"
        )
    return np.asarray(tensor.data, np.float64)


def llama3(baked: np.ndarray, plain: np.ndarray) -> rope.Llama3Scaling | None:
    """The parameters under which :func:`tera_jax.llama.rope.stretches` gives ``baked``.

    Between the two bounds the kept share is a straight line over the plain frequency. Its slope and
    intercept give the original context and ``high_freq_factor``. ``low_freq_factor`` only sets the
    unit, and is 1 as in every release.

    Args:
        baked: the factors of the file, (rotary_dim / 2,), float64.
        plain: the frequencies that they divide, the same shape.

    Returns:
        None where no frequency is stretched.

    Raises:
        ValueError: for other factors than the formula's.
    """
    if np.all(baked == 1.0):
        return None
    factor = float(baked.max())
    between = (baked > 1.0) & (baked < factor * (1 - 1e-6))
    if np.sum(between) >= 2:
        kept = (1.0 / baked - 1.0 / factor) / (1.0 - 1.0 / factor)
        slope, intercept = np.polyfit(plain[between].astype(np.float64), kept[between], 1)
        if intercept < 0 < slope:
            span = -1.0 / intercept
            found = rope.Llama3Scaling(
                factor=factor,
                low_freq_factor=1.0,
                high_freq_factor=float(round(1.0 + span, 3)),
                original_max_position_embeddings=round(slope * span * 2 * np.pi),
            )
            if np.allclose(rope.stretches(plain, found), baked, rtol=1e-4, atol=0):
                return found
    raise ValueError(
        f"the GGUF tensor {_PLAIN} {np.array2string(baked, threshold=8)} is not made by "
        "Llama 3.1's formula; load the Hugging Face checkpoint instead"
    )
