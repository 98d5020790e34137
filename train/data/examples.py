"""Records to examples of token ids, which stand in one flat array, and what of them is cut."""

import array
import copy
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard, overload, runtime_checkable

import datasets
import numpy as np
from jaxtyping import Int, Int32
from transformers import PreTrainedTokenizerFast

from ..config import DataConfig
from . import formats

_CHUNK = 4096
"""Records that are tokenised at once, by as many threads as there are cores."""

_Integers = Int[np.ndarray, "examples"]


@runtime_checkable
class Tokenizer(Protocol):
    """What of a ``transformers`` tokenizer is used here."""

    bos_token_id: int | None
    eos_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any:
        """Token ids under ``input_ids``."""


class Example(NamedTuple):
    """A record as token ids."""

    prompt: Sequence[int]
    response: Sequence[int]


class Cuts(NamedTuple):
    """What the limits of a configuration take from records.

    Attributes:
        records: how many there are.
        prompts: of them, those whose prompt is cut.
        responses: those whose response, with its EOS token, is cut.
        longest_response: tokens of the longest response before the cut.
        longest_row: of the longest prompt and response together, the response before the cut.
    """

    records: int = 0
    prompts: int = 0
    responses: int = 0
    longest_response: int = 0
    longest_row: int = 0


class Examples(Sequence[Example]):
    """Examples whose token ids stand one after the other in one array.

    Args:
        tokens: of each example its prompt and its response.
        prompts: tokens of each prompt.
        responses: tokens of each response.
        cuts: what the limits took from them.
    """

    def __init__(
        self,
        tokens: Int32[np.ndarray, "tokens"],
        prompts: _Integers,
        responses: _Integers,
        cuts: Cuts = Cuts(),  # noqa: B008 - of numbers
    ) -> None:
        self.cuts = cuts
        self._tokens, self._prompts, self._responses = tokens, prompts, responses
        self._starts = np.concatenate([[0], np.cumsum(prompts + responses)])
        self._virtual: tuple[int, ...] = ()

    def after(self, virtual: Sequence[int]) -> "Examples":
        """The same examples, with ``virtual`` token ids before each prompt."""
        result = copy.copy(self)
        result._virtual = tuple(virtual)
        return result

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start, stop = self._starts[index : index + 2]
        ids = self._tokens[start:stop].tolist()
        prompt = int(self._prompts[index])
        return Example([*self._virtual, *ids[:prompt]], ids[prompt:])

    def lengths(self) -> tuple[_Integers, _Integers]:
        """Tokens of each prompt, with its virtual tokens, and of each response."""
        return self._prompts + len(self._virtual), self._responses


def lengths(examples: Sequence[Example]) -> tuple[_Integers, _Integers]:
    """Tokens of each prompt and of each response."""
    if isinstance(examples, Examples):
        return examples.lengths()
    prompts = np.array([len(prompt) for prompt, _ in examples], np.int64)
    return prompts, np.array([len(response) for _, response in examples], np.int64)


def num_targets(
    examples: Sequence[Example], config: DataConfig, virtual: int = 0
) -> tuple[_Integers, _Integers]:
    """Tokens of each example, and those of them that the loss is on.

    The first is never one of these, for nothing predicts it, nor is a virtual one.
    """
    prompts, responses = lengths(examples)
    tokens = prompts + responses
    first = np.maximum(1, virtual if config.train_on_prompt else prompts)
    return tokens, np.maximum(0, tokens - first)


def digest(examples: Sequence[Example]) -> str:
    """16 hexadecimal digits that change with any token id of any example."""
    result = hashlib.sha256()
    for part in lengths(examples):
        result.update(np.asarray(part, np.int64).tobytes())
    for prompt, response in examples:
        result.update(np.array([*prompt, *response], np.int32).tobytes())
    return result.hexdigest()[:16]


def tokenize(
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    config: DataConfig,
    virtual: Sequence[int] = (),
) -> Examples:
    """Prompts and responses as token ids, cut to their greatest lengths.

    The two are tokenised apart, so that the prompt's tokens are those seen at inference.
    ``virtual`` ids stand before each prompt and do not count towards its length.
    """
    kind = formats.of_template(config.prompt)
    eos = [_special(tokenizer.eos_token_id, "EOS")] if config.append_eos else []
    most = row_length(config, 0)
    tokens, prompts, responses = array.array("i"), array.array("i"), array.array("i")
    cuts = Cuts()
    for rows in _chunks(records):
        given = _prompts(rows, tokenizer, config, inference=False)
        texts = [kind.response(row, config) for row in rows]
        answers = _ids(texts, tokenizer)
        for whole, answer in zip(given, answers, strict=True):
            longest = _last(whole, config)
            prompt, response = longest[:most], [*answer, *eos]
            kept = response[: config.max_response][: most - len(prompt)]
            tokens.extend(prompt)
            tokens.extend(kept)
            prompts.append(len(prompt))
            responses.append(len(kept))
            cuts = Cuts(
                cuts.records + 1,
                cuts.prompts + (len(prompt) < len(whole.first) + len(whole.ids)),
                cuts.responses + (len(kept) < len(response)),
                max(cuts.longest_response, len(response)),
                max(cuts.longest_row, len(longest) + len(response)),
            )
    flat, first, last = (np.frombuffer(part, np.int32) for part in (tokens, prompts, responses))
    return Examples(flat, first, last, cuts).after(virtual)


def encode_prompts(
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    config: DataConfig,
    virtual: Sequence[int] = (),
    inference: bool = False,
) -> list[list[int]]:
    """The prompts of records as token ids, the last ``max_prompt`` of each.

    ``inference`` prompts are those for a response; their authors may train on others.
    """
    result: list[list[int]] = []
    for rows in _chunks(records):
        for whole in _prompts(rows, tokenizer, config, inference):
            result.append([*virtual, *_last(whole, config)])
    return result


def row_length(config: DataConfig, virtual: int) -> int:
    """The most tokens of an example."""
    longest = config.max_prompt + config.max_response
    return virtual + min(longest, config.max_tokens or longest)


class _Prompt(NamedTuple):
    """What it begins with, and the ids of its text."""

    first: list[int]
    ids: list[int]


def _prompts(
    records: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, config: DataConfig, inference: bool
) -> list[_Prompt]:
    """Prompts before any cut."""
    kind = formats.of_template(config.prompt)
    bos = config.bos == "always" or (config.bos == "inference" and inference)
    first = [_special(tokenizer.bos_token_id, "BOS")] if bos else []
    texts = [kind.prompt(record, config, inference) for record in records]
    return [_Prompt(first, ids) for ids in _ids(texts, tokenizer)]


def _last(prompt: _Prompt, config: DataConfig) -> list[int]:
    """The last ``max_prompt`` tokens of a prompt, what it begins with among them."""
    first, ids = prompt
    room = config.max_prompt - len(first)
    return [*first, *ids[len(ids) - min(len(ids), room) :]]


def _ids(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of each text, without special tokens."""
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


def _special(token: int | None, name: str) -> int:
    if token is None:
        raise ValueError(f"the tokenizer has no {name} token; set config.data.bos and append_eos")
    return token


def _chunks(records: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    if isinstance(records, datasets.Dataset):  # a row at a time it takes ten times as long
        for columns in records.iter(_CHUNK):
            yield [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
        return
    rows = iter(records)
    while chunk := list(itertools.islice(rows, _CHUNK)):
        yield chunk
