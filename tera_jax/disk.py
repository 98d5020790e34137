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

from tera_jax import locks, trees
from tera_jax.atomic import is_part, replacing, sync, sync_tree

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

    What a killed process left of such a directory is emptied and used again.

    Raises:
        FileExistsError: when the target is there and not empty, or another process is writing it.
    """
    target = Path(directory)
    require_empty(target)
    with _beside(target) as aside:
        write(aside)
        check(aside)
        sync_tree(aside)
        if target.is_dir():
            shutil.rmtree(target)  # empty, but for temporary files
        aside.rename(target)
        sync(target.parent)
    return target


def require_empty(directory: Path) -> None:
    """Raise ``FileExistsError`` unless the directory is absent or empty.

    Temporary files that a killed process left there do not count.
    """
    if not directory.exists():
        return
    if not directory.is_dir() or not all(map(is_part, directory.iterdir())):
        raise FileExistsError(f"{directory} is there and not empty; name another directory")


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """An empty directory that this process alone writes to."""
    aside = target.with_name(f".{target.name}.partial")
    aside.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(aside, os.O_RDONLY)
    try:
        if locks.try_lock(descriptor) is False or not _is_open(descriptor, aside):
            raise FileExistsError(
                f"{target} is being written by another process; wait for it, or name another "
                "directory"
            )
        try:
            _empty(aside)
            _remove_numbered(target)
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(descriptor)


def _is_open(descriptor: int, path: Path) -> bool:
    """Whether the path still is what was opened; the process that had the lock renames it."""
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_numbered(target: Path) -> None:
    """What killed processes of older versions left, which put their number behind the name."""
    start = f".{target.name}.partial-"
    for path in target.parent.iterdir():
        if path.name.startswith(start) and path.name.removeprefix(start).isdigit():
            shutil.rmtree(path, ignore_errors=True)


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
    with replacing(path) as part:
        save_file(arrays, part, metadata={_CHECKSUM: checksum})
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
    arrays = read_arrays(path, checksum)
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


def read_arrays(path: Path, checksum: str | None) -> dict[str, np.ndarray]:
    """The arrays of a file by name, on the host.

    Args:
        path: the file.
        checksum: that they must have; None takes the file's own, if it has one.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged.
    """
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
