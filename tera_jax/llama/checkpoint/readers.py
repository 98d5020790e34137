"""Open checkpoints: what is in them, before any of it is read."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError, safe_open

from tera_jax import json_files
from tera_jax.json_files import Key
from tera_jax.llama.family.multimodal import MULTIMODAL

_log = logging.getLogger(__name__)

_FLOATS = ("F32", "F16", "BF16")
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_INDEX_KEYS = {"metadata": Key(dict | None, None), "weight_map": Key(dict[str, str])}
_REMEDY = "fetch the checkpoint again"


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

    Args:
        directory: its ``model.safetensors`` is read where there is one, as transformers does, and
            the files of its index otherwise.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for a file that is cut short, an index that does not fit the directory or its
            files, and a tensor that is there twice or has no type of floating point.
    """

    def __init__(self, directory: Path):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.files: dict[str, Path] = {}
        weight_map: dict[str, str] = {}
        if not (directory / _SINGLE).is_file() and (directory / _INDEX).is_file():
            weight_map = _weight_map(directory)
        for file in _indexed(directory, weight_map) if weight_map else [_single(directory)]:
            try:
                # It compares the header with the size of the file and maps it, no more.
                with safe_open(file, "np") as opened:
                    self._add(file, opened)
            except SafetensorError as error:
                raise ValueError(
                    f"{file} is not a whole safetensors file ({file.stat().st_size} bytes: "
                    f"{error}); fetch it again"
                ) from error
        for name, file_name in weight_map.items():
            if self.files.get(name) != directory / file_name:
                raise ValueError(
                    f"{directory / _INDEX} has the tensor {json_files.shown(name)} in {file_name}, "
                    f"which does not hold it; {_REMEDY}"
                )

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


def _weight_map(directory: Path) -> dict[str, str]:
    """The file name of each tensor, as the index has it.

    Raises:
        ValueError: for an index of other keys or types, or without tensors, and for a name that is
            not that of a safetensors file of the directory.
    """
    index = directory / _INDEX
    found = json_files.typed(index, json_files.read(index, remedy=_REMEDY), _INDEX_KEYS)
    weight_map = found["weight_map"]
    if not weight_map:
        raise ValueError(f"{index} has no tensors in weight_map; {_REMEDY}")
    for name in set(weight_map.values()):
        if not re.fullmatch(r"[^/\\\0]+\.safetensors", name):
            raise ValueError(
                f"{index} names the file {json_files.shown(name)}, which is not the plain name of "
                f"a safetensors file beside it; {_REMEDY}"
            )
    return weight_map


def _indexed(directory: Path, weight_map: dict[str, str]) -> list[Path]:
    """The files of an index; no link may lead out of the directory but to the hub's cache."""
    index, inside = directory / _INDEX, [directory.resolve()]
    if directory.parent.name == "snapshots":
        inside.append(directory.parent.parent.resolve() / "blobs")
    files = [directory / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is named in {index} but missing; fetch it")
        if not any(file.resolve().is_relative_to(root) for root in inside):
            raise ValueError(
                f"{file} is named in {index} but links to {file.resolve()}, out of the directory; "
                "copy the file"
            )
    return files


def _single(directory: Path) -> Path:
    """The one safetensors file that is the model."""
    if (directory / _SINGLE).is_file():
        return directory / _SINGLE
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    pickles = sorted(
        file.name for end in ("bin", "pt", "pth") for file in directory.glob(f"*.{end}")
    )
    if not found and pickles:
        raise ValueError(
            f"{directory} holds only pickles ({', '.join(pickles)}), which can run code and are "
            "never read; save the model as safetensors"
        )
    raise FileNotFoundError(
        f"{directory} holds {len(found)} safetensors files and no {_INDEX}; "
        "fetch the whole checkpoint"
    )


class _Renamed:
    """Some of the tensors of a checkpoint under other names."""

    def __init__(self, tensors: Tensors, names: Mapping[str, str]):
        self._tensors, self._names = tensors, names
        self.shapes = {name: tensors.shapes[theirs] for name, theirs in names.items()}
        self.files = {name: tensors.files[theirs] for name, theirs in names.items()}

    def read(self, name: str, index: Sequence[slice]) -> np.ndarray:
        return self._tensors.read(self._names[name], index)


def of_text(tensors: Tensors, directory: Path, model_type: str) -> Tensors:
    """The tensors of a multimodal model's text decoder; those of another model as they are.

    A line of the log says how many are left out.

    Args:
        tensors: of the checkpoint.
        directory: of it, for the log.
        model_type: of the decoder. The tensors that are left out are those of models with it.
    """
    for row in (row for row in MULTIMODAL.values() if row.text == model_type):
        left_out = [name for name in tensors.shapes if name.startswith(row.left_out)]
        names = {
            _own_name(name, row.decoder): name
            for name in tensors.shapes
            if not name.startswith(row.left_out)
        }
        if left_out:
            parts = " and ".join(sorted({_part(name) for name in left_out}))
            _log.warning(
                "%s: %d tensors of %s are left out: the text decoder alone is read",
                *(directory, len(left_out), parts),
            )
        if left_out or any(own != name for own, name in names.items()):
            return _Renamed(tensors, names)
    return tensors


def _part(name: str) -> str:
    return name.removeprefix("model.").split(".")[0]


def _own_name(name: str, decoder: Mapping[str, str]) -> str:
    for theirs, ours in decoder.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
