"""Adapter directories of Hugging Face PEFT, read and written.

Read and written: LoRA, DoRA, VeRA, RandLoRA, HiRA, Uni-LoRA, VB-LoRA, FourierFT,
LN-tuning, prompt tuning and P-tuning on the Llama family.
PiSSA is read from a PiSSA adapter and written as a LoRA of twice the rank on the unchanged base,
which is the same update. UniRes is written as a LoRA of its rank. Modules that Phi-3's files fuse
are read and written for LoRA, DoRA and HiRA (:mod:`.fused`). Of P-tuning PEFT saves the
finished prompt alone, so that is what is read.

What is read follows from ``adapter_config.json``: :mod:`.settings` has the keys that are
understood, :mod:`.modules` chooses the layers as PEFT does, and :mod:`.base_weights` takes what is
the base's.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tera_jax.adapters.base import Adapter
from tera_jax.atomic import write_json
from tera_jax.fingerprint import base_fingerprint
from tera_jax.io.peft import (
    as_lora,
    base_weights,
    fourierft,
    fused,
    layers,
    ln_tuning,
    prompts,
    randlora,
    settings,
    unilora,
    vblora,
)
from tera_jax.io.peft.files import CONFIG, read_arrays, write_arrays, written_base
from tera_jax.methods.base import Method

_log = logging.getLogger(__name__)

__all__ = ["CONFIG", "METHODS", "load", "require", "save"]

_WRITERS = {
    **dict.fromkeys(layers.LEAVES, layers.files),
    unilora.NAME: unilora.files,
    as_lora.UNIRES: layers.files,
    randlora.NAME: randlora.files,
    vblora.NAME: vblora.files,
    fourierft.NAME: fourierft.files,
    ln_tuning.NAME: ln_tuning.files,
    "prompt": prompts.files,
    "p_tuning": prompts.files,
}
METHODS = tuple(_WRITERS)
"""Of our methods those that are written."""

_AS_LORA = {as_lora.PISSA: as_lora.of_pissa, as_lora.UNIRES: as_lora.of_unires}
"""Of our methods those that PEFT has as a LoRA alone."""

_READERS = {
    "LORA": layers.load,
    "VERA": layers.load,
    "HIRA": layers.load,
    "UNILORA": unilora.load,
    "RANDLORA": randlora.load,
    "VBLORA": vblora.load,
    "FOURIERFT": fourierft.load,
    "LN_TUNING": ln_tuning.load,
    "PROMPT_TUNING": prompts.load,
    "P_TUNING": prompts.load,
}
"""By ``peft_type``, whatever the names of the arrays."""


def load(directory: str | os.PathLike[str], params: Any) -> tuple[Adapter, dict[str, Any]]:
    """Read a PEFT adapter and apply it to a base.

    Args:
        directory: with ``adapter_config.json`` and ``adapter_model.safetensors``. Where
            :func:`save` wrote it for a base of another fingerprint, a warning in the log says so.
        params: the ``params`` collection of a :class:`tera_jax.llama.Llama`.

    Returns:
        The adapter, and the variables ``params``, ``frozen`` and ``d``. ``params`` are those given,
        but for an embedding or a head that the adapter brings (``modules_to_save``).

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: for a ``peft_type``, a key or a value that is not understood, and for a pickle.
            For a missing or an extra array, or one of another shape or with NaN. For a copy of a
            base's weight that is not this base's, or a PiSSA adapter of another base.
    """
    path = Path(directory)
    config = settings.read(path)
    arrays = read_arrays(path)
    _warn_of_another_base(path, config, params)
    arrays, params = base_weights.take(path, config, arrays, params)
    return _READERS[config["peft_type"]](path, config, arrays, params)


def _warn_of_another_base(path: Path, config: Mapping[str, Any], params: Any) -> None:
    """Where :func:`save` wrote it. PEFT's own files name a base and do not say what is in it."""
    written = written_base(path)
    if written is None:
        return
    present = base_fingerprint(params)
    if written != present:
        _log.warning(
            "%s was made for the base %r with fingerprint %s, but these weights have %s",
            *(path, config["base_model_name_or_path"], written, present),
        )


def require(name: str, method: Method) -> None:
    """Raise ``ValueError`` where no adapter of PEFT does what a configured method does."""
    if name not in _WRITERS:
        raise ValueError(
            f"PEFT has no method {name!r}; written are {list(METHODS)}. Export the adapter in our "
            "format, or merged weights"
        )
    if name == as_lora.UNIRES:
        as_lora.require_unires(method)


def plain(
    adapter: Adapter, variables: Mapping[str, Any], whole: bool
) -> tuple[Adapter, Mapping[str, Any]]:
    """The same update as PEFT can hold it.

    Args:
        adapter: of one of :data:`METHODS`.
        variables: ``params``, ``frozen`` and ``d``.
        whole: whether the base's files have fused modules, as Phi-3's.

    Raises:
        ValueError: as :func:`require`, and :func:`.fused.require_exact` where ``whole``.
    """
    require(adapter.name, adapter.method)
    if whole:
        fused.require_exact(adapter)
    if adapter.name in _AS_LORA:
        adapter, variables = _AS_LORA[adapter.name](adapter, variables)
    if whole and adapter.name in fused.EXACT:
        return fused.shared(adapter, variables)
    return adapter, variables


def save(
    directory: str | os.PathLike[str],
    adapter: Adapter,
    variables: Mapping[str, Any],
    base_name: str,
    whole: bool = False,
) -> None:
    """Write a PEFT adapter directory.

    Args:
        directory: to write into; it exists.
        adapter: from :func:`plain`, as are the variables.
        variables: ``params``, ``frozen`` and ``d``.
        base_name: what PEFT is to load as the base.
        whole: as of :func:`plain`.
    """
    fields = {"whole": whole} if adapter.name in layers.LEAVES else {}
    config, arrays = _WRITERS[adapter.name](adapter, variables, **fields)
    common = {
        "base_model_name_or_path": base_name,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    }
    path = Path(directory)
    write_json(path / CONFIG, {**common, **config})
    write_arrays(path, arrays, base_fingerprint(variables["params"]))
