"""Examples: token ids and the mask of those that the loss is on, in flat arrays."""

import copy
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard, overload, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, UInt8
from transformers import PreTrainedTokenizerFast

from ..config import DataConfig

_CHUNK = 2**16
_Integers = Int[np.ndarray, "examples"]


@runtime_checkable
class Tokenizer(Protocol):
    """What of a ``transformers`` tokenizer is used here."""

    bos_token_id: int | None
    eos_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any:
        """Token ids under ``input_ids``."""


class Example(NamedTuple):
    """A record as token ids.

    Attributes:
        ids: of the whole record.
        mask: for each id 1 where the loss is on it, and 0 elsewhere. ``config.data.loss='all'``
            puts the loss on every id.
    """

    ids: Sequence[int]
    mask: Sequence[int]

    @classmethod
    def of(cls, prompt: Sequence[int], response: Sequence[int]) -> "Example":
        """A prompt, and a response that the loss is on."""
        return cls([*prompt, *response], [0] * len(prompt) + [1] * len(response))

    @property
    def prompt(self) -> list[int]:
        """The ids before the first with a loss."""
        return [*self.ids[: self._first]]

    @property
    def response(self) -> list[int]:
        """The ids from the first with a loss."""
        return [*self.ids[self._first :]]

    @property
    def _first(self) -> int:
        mask = [*self.mask]
        return mask.index(1) if 1 in mask else len(mask)


class Cuts(NamedTuple):
    """What the limits of a configuration take from records.

    Attributes:
        records: how many there are.
        prompts: of them, those whose prompt is cut.
        responses: those whose response, with its EOS token, is cut.
        longest_response: tokens of the longest response before the cut.
        longest_row: of the longest prompt and response together, the response before the cut.
        dropped: records that were left out, for they could not be rendered.
    """

    records: int = 0
    prompts: int = 0
    responses: int = 0
    longest_response: int = 0
    longest_row: int = 0
    dropped: int = 0


class Examples(Sequence[Example]):
    """Examples whose token ids stand one after the other in one array.

    Args:
        tokens: ids of all examples.
        mask: for each of them 1 where the loss is on it.
        lengths: tokens of each example.
        cuts: what the limits took from them.
    """

    def __init__(
        self,
        tokens: Int32[np.ndarray, "tokens"],
        mask: UInt8[np.ndarray, "tokens"],
        lengths: _Integers,
        cuts: Cuts = Cuts(),  # noqa: B008 - of numbers
    ) -> None:
        self.cuts = cuts
        self._tokens, self._mask = tokens, mask
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._counts = _sums(mask, self._starts)
        self._virtual: tuple[int, ...] = ()

    def after(self, virtual: Sequence[int]) -> "Examples":
        """The same examples, with ``virtual`` token ids before each."""
        result = copy.copy(self)
        result._virtual = tuple(virtual)
        return result

    def __len__(self) -> int:
        return len(self._counts)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        ids, mask = self._read(range(len(self))[index])
        return Example([*self._virtual, *ids], [0] * len(self._virtual) + [*mask])

    def _read(self, index: int) -> Example:
        """An example without virtual tokens."""
        start, stop = self._starts[index : index + 2]
        return Example(self._tokens[start:stop].tolist(), self._mask[start:stop].tolist())

    def lengths(self) -> tuple[_Integers, _Integers]:
        """Tokens of each example, its virtual ones too, and those with a loss."""
        return np.diff(self._starts) + len(self._virtual), self._counts

    def first_masks(self) -> _Integers:
        """Of each example the mask of its first token; 0 where it has none."""
        if self._virtual or not len(self._mask):
            return np.zeros(len(self), np.int64)
        starts = np.minimum(self._starts[:-1], len(self._mask) - 1)
        return np.where(self._counts > 0, self._mask[starts], 0).astype(np.int64)

    def end_in_targets(self) -> bool:
        """Whether the tokens with a loss are the last of each example."""
        falls = np.flatnonzero(self._mask[:-1] > self._mask[1:]) + 1
        return bool(np.isin(falls, self._starts).all())


def _sums(mask: UInt8[np.ndarray, "tokens"], starts: Int[np.ndarray, "bounds"]) -> _Integers:
    """The sum of each part of a mask, of some at a time: numpy widens what it sums."""
    result = np.zeros(len(starts) - 1, np.int64)
    for first in range(0, len(result), _CHUNK):
        bounds = starts[first : first + _CHUNK + 1]
        filled = np.diff(bounds) > 0
        if filled.any():
            part, begins = mask[bounds[0] : bounds[-1]], (bounds[:-1] - bounds[0])[filled]
            sums = np.add.reduceat(part, begins, dtype=np.int64)
            result[first : first + _CHUNK][filled] = sums
    return result


def lengths(examples: Sequence[Example]) -> tuple[_Integers, _Integers]:
    """Tokens of each example, and those with a loss."""
    if isinstance(examples, Examples):
        return examples.lengths()
    tokens = np.array([len(example.ids) for example in examples], np.int64)
    return tokens, np.array([sum(example.mask) for example in examples], np.int64)


def num_targets(
    examples: Sequence[Example], config: DataConfig, virtual: int = 0
) -> tuple[_Integers, _Integers]:
    """Tokens of each example, and those of them that the loss is on.

    The first is never one of these, for nothing predicts it, nor is a virtual one.
    """
    tokens, masked = lengths(examples)
    if config.loss_on_all:
        return tokens, np.maximum(0, tokens - max(1, virtual))
    if isinstance(examples, Examples):
        return tokens, masked - examples.first_masks()
    first = np.array([sum(example.mask[:1]) for example in examples], np.int64)
    return tokens, masked - first


def digest(examples: Sequence[Example]) -> str:
    """16 hexadecimal digits that change with any token id of any example, and with its mask."""
    tokens, masked = lengths(examples)
    result = hashlib.sha256()
    for part in (tokens - masked, masked):
        result.update(np.asarray(part, np.int64).tobytes())
    for example in examples:
        result.update(np.array(example.ids, np.int32).tobytes())
    if not _end_in_targets(examples):  # else the counts are the mask
        for example in examples:
            result.update(np.array(example.mask, np.uint8).tobytes())
    return result.hexdigest()[:16]


def _end_in_targets(examples: Sequence[Example]) -> bool:
    if isinstance(examples, Examples):
        return examples.end_in_targets()
    return all([*example.mask] == sorted(example.mask) for example in examples)


def ids_of(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of each text, without special tokens, by as many threads as there are cores."""
    if not _is_plain(tokenizer):
        return tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokenizer([""], add_special_tokens=False)  # sets the backend: no padding, no truncation
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def _is_plain(tokenizer: Any) -> TypeGuard[PreTrainedTokenizerFast]:
    """Whether a call does no more than its backend, which alone takes two thirds of the time."""
    own, base = type(tokenizer), PreTrainedTokenizerFast
    names = ("__call__", "_encode_plus")
    return isinstance(tokenizer, base) and all(
        getattr(own, name) is getattr(base, name) for name in names
    )


def special_id(token: int | None, name: str) -> int:
    """A special token of a tokenizer, which may have none.

    Raises:
        ValueError: when it has none.
    """
    if token is None:
        raise ValueError(f"the tokenizer has no {name} token; set config.data.bos and append_eos")
    return token
