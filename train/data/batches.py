"""Records to examples of token ids, and examples to batches of one shape."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .. import tasks
from ..config import DataConfig
from . import packing


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


class Batch(NamedTuple):
    """Rows of one shape, padded on the right: under a causal mask no token sees the padding.

    The loss reads T positions of each row: the state at ``target_positions_BT`` predicts
    ``target_BT``, and counts where ``weight_BT`` is 1. Of packed rows ``lengths_BM`` has the tokens
    of each record, 0 where there are fewer than M; it is None where a row holds one record.
    """

    tokens_BL: np.ndarray
    target_positions_BT: np.ndarray
    target_BT: np.ndarray
    weight_BT: np.ndarray
    lengths_BM: np.ndarray | None = None


def tokenize(
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    config: DataConfig,
    virtual: Sequence[int] = (),
) -> list[Example]:
    """Prompts and responses as token ids, cut to their greatest lengths.

    The two are tokenised apart, so that the prompt's tokens are those seen at inference.
    ``virtual`` ids stand before each prompt and do not count towards its length.
    """
    records = list(records)
    prompts = encode_prompts(records, tokenizer, config, virtual)
    texts = [tasks.response(record, config.prompt) for record in records]
    responses = tokenizer(texts, add_special_tokens=False)["input_ids"]
    eos = [_special(tokenizer.eos_token_id, "EOS")] if config.append_eos else []
    most = _row_length(config, len(virtual))
    examples = []
    for prompt, response in zip(prompts, responses, strict=True):
        kept = prompt[:most]
        examples.append(Example(kept, [*response, *eos][: config.max_response][: most - len(kept)]))
    return examples


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
    style, history = config.prompt, config.history
    texts = [tasks.prompt(record, style, history, inference) for record in records]
    bos = config.bos == "always" or (config.bos == "inference" and inference)
    first = [_special(tokenizer.bos_token_id, "BOS")] if bos else []
    room = config.max_prompt - len(first)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [[*virtual, *first, *row[len(row) - min(len(row), room) :]] for row in ids]


def _special(token: int | None, name: str) -> int:
    if token is None:
        raise ValueError(f"the tokenizer has no {name} token; set config.data.bos and append_eos")
    return token


def _row_length(config: DataConfig, virtual: int) -> int:
    longest = config.max_prompt + config.max_response
    return virtual + min(longest, config.max_tokens or longest)


def collate(examples: Sequence[Example], config: DataConfig, virtual: int = 0) -> Batch:
    """One batch of the shapes that ``config`` fixes, so that a step is traced once.

    L is ``virtual + max_prompt + max_response``, or ``virtual + max_tokens`` if that is less; T is
    ``max_response``, or all but the virtual tokens and the first when the loss is on the prompt
    too.
    """
    length = _row_length(config, virtual)
    targets = length - max(1, virtual) if config.train_on_prompt else config.max_response
    row = packing.Row(length, targets, records=1)
    batch = fill([[example] for example in examples], row, config, virtual)
    return batch._replace(lengths_BM=None)


def fill(
    rows: Sequence[Sequence[Example]], row: packing.Row, config: DataConfig, virtual: int
) -> Batch:
    """The examples of each row one after the other, in rows of L tokens and T targets."""
    shape_BL, shape_BT = (len(rows), row.tokens), (len(rows), row.targets)
    lengths_BM = np.zeros((len(rows), row.records), np.int32)
    batch = Batch(
        tokens_BL=np.zeros(shape_BL, np.int32),
        target_positions_BT=np.zeros(shape_BT, np.int32),
        target_BT=np.zeros(shape_BT, np.int32),
        weight_BT=np.zeros(shape_BT, np.float32),
        lengths_BM=lengths_BM,
    )
    for number, examples in enumerate(rows):
        token, target = 0, 0
        for place, example in enumerate(examples):
            size = _size(example, config, virtual)
            tokens = slice(token, token := token + size.tokens)
            targets = slice(target, target := target + size.targets)
            ids = [*example.prompt, *example.response]
            batch.tokens_BL[number, tokens] = ids
            lengths_BM[number, place] = size.tokens
            batch.target_positions_BT[number, targets] = np.arange(token - size.targets, token) - 1
            batch.target_BT[number, targets] = ids[size.tokens - size.targets :]
            batch.weight_BT[number, targets] = 1
    return batch


def _size(example: Example, config: DataConfig, virtual: int) -> packing.Size:
    """Its tokens and those of them that the loss is on: never the first, which nothing predicts."""
    tokens = len(example.prompt) + len(example.response)
    first = max(1, virtual if config.train_on_prompt else len(example.prompt))
    return packing.Size(tokens, max(0, tokens - first))


def measure(
    examples: Sequence[Example], config: DataConfig, virtual: int
) -> tuple[list[packing.Size], packing.Row]:
    """The size of each example, and the limits of a packed row."""
    sizes = [_size(example, config, virtual) for example in examples]
    length = config.packed_length or _row_length(config, virtual)
    targets = length if config.train_on_prompt else config.max_response
    return sizes, packing.limits(sizes, length, targets)


def by_row(examples: Iterable[Example], places: Sequence[int], rows: int) -> list[list[Example]]:
    """The examples of each row, from the row of each example."""
    result: list[list[Example]] = [[] for _ in range(rows)]
    for example, place in zip(examples, places, strict=True):
        result[place].append(example)
    return result


def num_tokens(batch: Batch) -> int:
    """Tokens of a batch without its padding: the last target of a row is its last token."""
    if batch.lengths_BM is not None:
        return int(batch.lengths_BM.sum())
    return int((batch.target_positions_BT.max(axis=1) + 2).sum())
