"""Adapter directories of Hugging Face PEFT, read and written.

Read and written: LoRA, DoRA, VeRA, HiRA, Uni-LoRA, prompt tuning and P-tuning on the Llama family.
PiSSA is read from a PiSSA adapter and written as a LoRA of twice the rank on the unchanged base,
which is the same update. Of P-tuning PEFT saves the finished prompt alone, so that is what is read.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tera_jax.adapters.base import Adapter
from tera_jax.io.peft import layers, prompts, unilora
from tera_jax.io.peft.files import ARRAYS, CONFIG, read

__all__ = ["CONFIG", "load", "save"]


def load(directory: str | os.PathLike[str], params: Any) -> tuple[Adapter, dict[str, Any]]:
    """Read a PEFT adapter and apply it to a base.

    Args:
        directory: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        params: the ``params`` collection of a :class:`tera_jax.llama.Llama`.

    Returns:
        The adapter, and the variables ``params``, ``frozen`` and ``d``.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: for a method or a setting that is not read, for a missing or an extra array,
            for an array of another shape, or when the base is not the one of a PiSSA adapter.
    """
    path = Path(directory)
    config, arrays = read(path)
    if config.get("peft_type") == unilora.TYPE:
        return unilora.load(path, config, arrays, params)
    kind = prompts if prompts.PROMPT in arrays else layers
    return kind.load(path, config, arrays, params)


def save(
    directory: str | os.PathLike[str],
    adapter: Adapter,
    variables: Mapping[str, Any],
    base_name: str,
) -> None:
    """Write a PEFT adapter directory.

    Args:
        directory: to write into; it exists.
        adapter: of a method that PEFT has.
        variables: ``params``, ``frozen`` and ``d``.
        base_name: what PEFT is to load as the base.

    Raises:
        ValueError: for a method that PEFT does not have.
    """
    if adapter.name in ("prompt", "p_tuning"):
        config, arrays = prompts.files(adapter, variables)
    elif adapter.name == unilora.NAME:
        config, arrays = unilora.files(adapter, variables)
    elif adapter.name in layers.LEAVES:
        config, arrays = layers.files(adapter, variables)
    else:
        raise ValueError(
            f"PEFT has no method {adapter.name!r}, only "
            f"{[*layers.LEAVES, unilora.NAME, 'prompt', 'p_tuning']}; export the adapter in our "
            "format, or merged weights"
        )
    common = {
        "base_model_name_or_path": base_name,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    }
    path = Path(directory)
    (path / CONFIG).write_text(json.dumps({**common, **config}, indent=2) + "\n")
    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    save_file(contiguous, path / ARRAYS, metadata={"format": "pt"})
