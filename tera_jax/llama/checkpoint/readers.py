"""Open checkpoints: what is in them, before any of it is read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError, safe_open

from tera_jax.llama.checkpoint import names

_FLOATS = ("F32", "F16", "BF16")


@runtime_checkable
class Tensors(Protocol):
    """An open checkpoint, in Hugging Face's names and layout."""

    shapes: dict[str, tuple[int, ...]]
    files: dict[str, Path]

    def read(self, name: str, index: Sequence[slice]) -> np.ndarray:
        """Reads no more than a slice of one tensor."""


class SafeTensors:
    """The tensors of the safetensors files of a Hugging Face directory.

    A file is open only while it is read: as long as it is, what was read of it stays mapped and
    counts as memory of this process.
    """

    def __init__(self, directory: Path):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.files: dict[str, Path] = {}
        for file in _files(directory):
            try:
                # It compares the header with the size of the file and maps it, no more.
                with safe_open(file, "np") as opened:
                    self._add(file, opened)
            except SafetensorError as error:
                raise ValueError(
                    f"{file} is not a whole safetensors file ({file.stat().st_size} bytes: "
                    f"{error}); fetch it again"
                ) from error

    def _add(self, file: Path, opened: Any) -> None:
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            found = opened.get_slice(name)
            if name in self.files:
                raise ValueError(
                    f"tensor {name} is in {self.files[name]} and in {file}; remove one"
                )
            if found.get_dtype() not in _FLOATS:
                raise ValueError(
                    f"{file}: tensor {name} is stored as {found.get_dtype()}, not one of "
                    f"{', '.join(_FLOATS)}; choose a checkpoint that is not quantised"
                )
            self.shapes[name], self.files[name] = tuple(found.get_shape()), file

    def read(self, name: str, index: Sequence[slice]) -> np.ndarray:
        """A slice of a tensor."""
        with safe_open(self.files[name], "np") as opened:
            return opened.get_slice(name)[tuple(index)]


def _files(directory: Path) -> list[Path]:
    """The safetensors files that together are the model."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        files = [directory / name for name in sorted(set(read_json(index)["weight_map"].values()))]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"{file} is named in {index} but missing; fetch it")
        return files
    if (directory / "model.safetensors").is_file():
        return [directory / "model.safetensors"]
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        return found
    pickles = sorted(
        file.name for end in ("bin", "pt", "pth") for file in directory.glob(f"*.{end}")
    )
    if not found and pickles:
        raise ValueError(
            f"{directory} holds only pickles ({', '.join(pickles)}), which can run code and are "
            "never read; save the model as safetensors"
        )
    raise FileNotFoundError(
        f"{directory} holds {len(found)} safetensors files and no model.safetensors.index.json; "
        "fetch the whole checkpoint"
    )


def check(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Compares all names and shapes with the model's, before any weight is read.

    Args:
        tensors: the checkpoint.
        shapes: of every parameter of the model, by its path below ``params``.
        path: of the checkpoint, for messages.

    Raises:
        ValueError: for a tensor that is missing, not the model's, or of another shape.
    """
    expected = dict(
        tensor for path, shape in shapes.items() for tensor in names.tensors(path, shape)
    )
    harmless = {name for name in tensors.shapes if names.HARMLESS.fullmatch(name)}
    if "lm_head/kernel" not in shapes:
        harmless.add("lm_head.weight")  # tied models are sometimes saved with the copy
    missing = expected.keys() - tensors.shapes.keys()
    unexpected = tensors.shapes.keys() - expected.keys() - harmless
    if missing or unexpected:
        raise ValueError(
            f"{path} does not hold the model that its config describes: "
            f"{_some(missing)} missing, {_some(unexpected)} unexpected; check that weights and "
            "config belong together"
        )
    for name, shape in expected.items():
        if tensors.shapes[name] != shape:
            raise ValueError(
                f"{tensors.files[name]}: tensor {name} has shape {tensors.shapes[name]}, but the "
                f"config makes it {shape}; check that weights and config belong together"
            )


def _some(found: set[str]) -> str:
    shown = ", ".join(sorted(found)[:3])
    return f"{len(found)} tensors ({shown}{', ...' if len(found) > 3 else ''})" if found else "none"


def read_json(file: Path) -> Any:
    """Parses a JSON file; a ValueError names the file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON ({error}); fetch it again") from error
