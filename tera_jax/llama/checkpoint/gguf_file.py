"""GGUF files (llama.cpp), whole or split: their metadata and where their tensors are."""

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tera_jax.llama.checkpoint.resolve import Split, split_of

_MOST = 2**22
"""Entries of a list of the metadata, which takes a Python object for each."""
_FETCH = "fetch all parts again"


class _Reader(gguf.GGUFReader):
    """llama.cpp's, which past the end of a file reads on for as long as a count there says."""

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        if type(self.data) is not np.ndarray:
            # The same memory; a memmap takes longer to slice.
            self.data = np.asarray(self.data)  # type: ignore[assignment]
        kind = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
        start = int(offset)
        end = start + int(count) * kind.itemsize
        if end > len(self.data):
            raise ValueError(f"it ends before byte {end}")
        return self.data[start:end].view(kind)

    def _get_field_parts(self, offset: Any, kind: Any) -> Any:
        if kind != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(offset, kind)
        lead = [self._get(offset, np.uint32), self._get(offset + 4, np.uint64)]
        inner, length = int(lead[0][0]), int(lead[1][0])
        scalar = self.gguf_scalar_to_np.get(inner)  # type: ignore[call-overload]
        text = inner == gguf.GGUFValueType.STRING
        if not (text or scalar) or length > _MOST:
            raise ValueError(f"a list of {length} entries of type {inner}")
        start = int(offset) + 12
        if text:
            parts, end = self._texts(start, length)
        else:
            values_N = self._get(start, scalar, length)
            parts, end = list(values_N.reshape(-1, 1)), start + values_N.nbytes
        # Where the values are among the parts: a text is behind its length.
        indices = range(3, 3 + len(parts), 2) if text else range(2, 2 + len(parts))
        types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(inner)]
        return end - int(offset), lead + parts, list(indices), types if length else types[:1]

    def _texts(self, start: int, count: int) -> tuple[list[Any], int]:
        """Texts with their lengths, and the byte behind them: llama.cpp's reader takes seconds."""
        parts: list[Any] = []
        for _ in range(count):
            parts += self._get_str(start)
            start += 8 + parts[-1].nbytes
        return parts, start


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """An open file, or all parts of a split one.

    Attributes:
        path: of the file, or of the first part.
        reader: of that one, which has the metadata.
        tensors: of all parts, each with its file.
    """

    path: Path
    reader: gguf.GGUFReader
    tensors: tuple[tuple[Path, gguf.ReaderTensor], ...]


def open_gguf(path: Path) -> GgufFile:
    """Maps a GGUF file. Of a split one, any part gives all.

    Raises:
        FileNotFoundError: for parts that are missing.
        ValueError: for a file that is not GGUF or is cut short. For a part that is not the one that
            its name says, that is another model's, or that has a tensor of another part.
    """
    split = split_of(path)
    if split is None or split.total == 1:
        reader = _open(path)
        number, count, _ = _said(reader)
        if count > 1:
            raise ValueError(
                f"{path} is part {number} of {count} of a split file; name the parts "
                f"{path.stem}-00001-of-{count:05}.gguf and so on"
            )
        return GgufFile(path, reader, tuple((path, tensor) for tensor in reader.tensors))
    paths = split.paths()
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise FileNotFoundError(
            f"{path} is part of a split file, but {len(missing)} of its {split.total} parts are "
            f"missing from {path.parent} ({', '.join(missing[:3])}{more}); fetch them"
        )
    readers = [_open(part) for part in paths]
    _require_one_model(split, paths, readers)
    return GgufFile(
        paths[0],
        readers[0],
        tuple(
            (part, tensor)
            for part, reader in zip(paths, readers, strict=True)
            for tensor in reader.tensors
        ),
    )


def field(file: GgufFile, key: str, default: Any = None) -> Any:
    """The value of a metadata key, or ``default``.

    Raises:
        ValueError: for a text that is not UTF-8.
    """
    return _field(file.reader, key, default)


def section(file: GgufFile, prefix: str) -> dict[str, Any]:
    """The values of all metadata keys below a prefix that ends with a dot, by the rest of them."""
    keys = [key for key in file.reader.fields if key.startswith(prefix)]
    return {key.removeprefix(prefix): field(file, key) for key in keys}


def _open(path: Path) -> gguf.GGUFReader:
    try:
        with np.errstate(over="raise"):
            return _Reader(path)
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"{path} is not a whole GGUF file ({path.stat().st_size} bytes: {error}); "
            "fetch it again"
        ) from error


def _field(reader: gguf.GGUFReader, key: str, default: Any) -> Any:
    found = reader.get_field(key)
    try:
        return default if found is None else found.contents()
    except UnicodeDecodeError as error:
        raise ValueError(f"GGUF key {key} is not UTF-8 ({error}); fetch the file again") from error


def _said(reader: gguf.GGUFReader) -> tuple[int, int, int | None]:
    """Which part a file says that it is, counted from one, of how many, with how many tensors."""
    number, count, tensors = (
        _field(reader, f"split.{key}", None) for key in ("no", "count", "tensors.count")
    )
    if type(number) is not int or type(count) is not int:
        return 1, 1, None
    return number + 1, count, tensors if type(tensors) is int else None


def _require_one_model(split: Split, paths: list[Path], readers: list[gguf.GGUFReader]) -> None:
    total = _said(readers[0])[2]
    kind = _field(readers[0], "general.architecture", None)
    seen: dict[str, Path] = {}
    for number, (path, reader) in enumerate(zip(paths, readers, strict=True), 1):
        own, count, tensors = _said(reader)
        if (own, count) != (number, split.total):
            raise ValueError(
                f"{path} is named as part {number} of {split.total}, but its metadata say part "
                f"{own} of {count}; {_FETCH}"
            )
        if tensors != total or _field(reader, "general.architecture", kind) != kind:
            raise ValueError(
                f"{path} is a part of another model than {paths[0]}: of one with {tensors} "
                f"tensors, not {total}; {_FETCH}"
            )
        for tensor in reader.tensors:
            if tensor.name in seen:
                raise ValueError(
                    f"tensor {tensor.name} is in {seen[tensor.name]} and in {path}; {_FETCH}"
                )
            seen[tensor.name] = path
    if total is not None and len(seen) != total:
        raise ValueError(
            f"the {split.total} parts of {paths[0]} have {len(seen)} tensors, but its metadata say "
            f"{total}; {_FETCH}"
        )
