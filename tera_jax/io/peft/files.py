"""The files of a PEFT adapter directory."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from tera_jax.atomic import replacing

CONFIG = "adapter_config.json"
ARRAYS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before the names that a torch model gives its modules."""

_BASE = "tera_jax_base_fingerprint"
_PICKLE = "adapter_model.bin"
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], base: str) -> None:
    """Write arrays by PEFT's names, and the fingerprint of the base as metadata of the file."""
    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    with replacing(path / ARRAYS) as part:
        save_file(contiguous, part, metadata={"format": "pt", _BASE: base})


def written_base(path: Path) -> str | None:
    """The fingerprint of the base that :func:`write_arrays` was given; None in files of PEFT's."""
    with safe_open(path / ARRAYS, "np") as opened:
        return (opened.metadata() or {}).get(_BASE)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a directory by PEFT's names.

    Raises:
        FileNotFoundError: when there are none.
        ValueError: when the file is damaged, a pickle, or has an array of another type or with NaN
            or infinity.
    """
    file = path / ARRAYS
    if not file.is_file() and (path / _PICKLE).is_file():
        raise ValueError(
            f"{path / _PICKLE} is a pickle, which may run code and is never read; load it in PEFT "
            "and save it with safe_serialization=True"
        )
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; name a PEFT adapter directory")
    try:
        with safe_open(file, "np") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                dtype = opened.get_slice(name).get_dtype()
                if dtype not in _DTYPES:
                    raise ValueError(
                        f"{name} in {file} is of type {dtype}, not of {', '.join(_DTYPES)}; save "
                        "the adapter in one of these"
                    )
        arrays = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); save the adapter again") from None
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name} in {file} has entries that are NaN or infinite; train the adapter again"
            )
    return arrays
