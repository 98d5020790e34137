"""Arrays on disk with a checksum, and directories that are whole or not there."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from tera_jax import trees

_CHECKSUM = "sha256"
_DTYPES = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64",
}  # fmt: skip
"""By safetensors' codes."""


def write_checked(
    directory: str | os.PathLike[str],
    write: Callable[[Path], None],
    check: Callable[[Path], None],
) -> Path:
    """Let ``write`` fill a directory beside the target, ``check`` it, and only then rename it.

    Raises:
        FileExistsError: when the target is there and not empty.
    """
    target = Path(directory)
    require_empty(target)
    with _beside(target) as aside:
        write(aside)
        check(aside)
        if target.is_dir():
            target.rmdir()
        aside.rename(target)
    return target


def require_empty(directory: Path) -> None:
    """Raise ``FileExistsError`` unless the directory is absent or empty."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is there and not empty; name another directory")


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    aside = target.with_name(f".{target.name}.partial-{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def require_equal(found: Any, expected: Any, where: Path) -> None:
    """Raise ``ValueError`` that names the first array of ``found`` with another bit."""
    for (name, a), b in zip(trees.named(found).items(), jax.tree.leaves(expected), strict=True):
        if a.dtype != b.dtype or not jnp.array_equal(a, b):
            raise ValueError(f"{name} read back from {where} is not what was written; export again")


def save_arrays(path: Path, tree: Any) -> str:
    """Write a tree of arrays as safetensors, each by its path, with a checksum of all.

    Returns:
        The checksum.
    """
    arrays = _flatten(tree)
    checksum = _checksum(arrays)
    save_file(arrays, path, metadata={_CHECKSUM: checksum})
    return checksum


def load_arrays(path: Path, shapes: Any, checksum: str | None = None) -> Any:
    """Read what :func:`save_arrays` wrote.

    Args:
        path: the file.
        shapes: a tree like the one that was written; abstract leaves do.
        checksum: that the arrays must have, where it was kept elsewhere too.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged, or its arrays are not those of ``shapes``.
    """
    require_header(path, shapes)
    arrays = _read_arrays(path, checksum)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    return jax.tree.unflatten(
        treedef, [jnp.asarray(arrays[trees.name(path)], leaf.dtype) for path, leaf in leaves]
    )


def require_header(path: Path, shapes: Any) -> None:
    """Compare the names, shapes and types of a file of arrays with those of a tree; read no array.

    A file in bfloat16 fits a tree in float32.

    Args:
        path: the file.
        shapes: the tree; abstract leaves do.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged, or its arrays are not those of ``shapes``.
    """
    expected = trees.named(shapes)
    with _opened(path) as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
        if missing or extra:
            raise ValueError(
                f"{path} lacks the arrays {sorted(missing)} and has {sorted(extra)} too many; "
                "it is not the file that adapter.json describes"
            )
        for name, leaf in expected.items():
            shape, code = tuple(found[name].get_shape()), found[name].get_dtype()
            dtype = _DTYPES.get(code, code)
            narrow = (dtype, leaf.dtype.name) == ("bfloat16", "float32")
            if shape != leaf.shape or not (narrow or dtype == leaf.dtype.name):
                raise ValueError(
                    f"{name} in {path} is {dtype}{shape}, not {leaf.dtype}{leaf.shape}; it is not "
                    "the file that adapter.json describes"
                )


def has_checksum(path: Path) -> bool:
    """Whether a file of arrays carries the checksum that :func:`save_arrays` writes.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged.
    """
    with _opened(path) as file:
        return _CHECKSUM in (file.metadata() or {})


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; write it again")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); write it again") from None


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    return {
        name: np.ascontiguousarray(jax.device_get(leaf)) for name, leaf in trees.named(tree).items()
    }


def _read_arrays(path: Path, checksum: str | None) -> dict[str, np.ndarray]:
    with _opened(path) as file:
        expected = (file.metadata() or {}).get(_CHECKSUM)
        arrays = load_file(path)
    present = _checksum(arrays)
    if expected not in (None, present) or checksum not in (None, present):
        raise ValueError(f"{path} is damaged (its checksum is another); write it again")
    return arrays


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
