"""Records to token rows, and the shuffled, resumable order in which they are fed."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from train import tasks
from train.config import DataConfig


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

    The loss reads T positions of each row: the state at ``index_BT`` predicts ``target_BT``, and
    counts where ``weight_BT`` is 1.
    """

    tokens_BL: np.ndarray
    index_BT: np.ndarray
    target_BT: np.ndarray
    weight_BT: np.ndarray


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
    on_prompt = config.loss_on == "prompt"
    targets = length - max(1, virtual) if on_prompt else config.max_response
    rows = len(examples)
    batch = Batch(
        tokens_BL=np.zeros((rows, length), np.int32),
        index_BT=np.zeros((rows, targets), np.int32),
        target_BT=np.zeros((rows, targets), np.int32),
        weight_BT=np.zeros((rows, targets), np.float32),
    )
    for row, (prompt, response) in enumerate(examples):
        tokens = [*prompt, *response]
        first = max(1, virtual) if on_prompt else len(prompt)
        count = len(tokens) - first
        batch.tokens_BL[row, : len(tokens)] = tokens
        batch.index_BT[row, :count] = np.arange(first - 1, len(tokens) - 1)
        batch.target_BT[row, :count] = tokens[first:]
        batch.weight_BT[row, :count] = 1
    return batch


def num_tokens(batch: Batch) -> int:
    """Tokens of a batch without its padding: the last target of a row is its last token."""
    return int((batch.index_BT.max(axis=1) + 2).sum())


def num_steps(examples: int, batch_size: int, epochs: float) -> int:
    """Steps that see ``epochs`` times all examples."""
    return math.ceil(examples * epochs / batch_size)


@dataclasses.dataclass
class Stream:
    """The training examples in a new random order each epoch, without end.

    Epochs follow each other within a batch, so that every example is seen once before any is seen
    twice. The order is a function of ``seed`` and the epoch alone: ``position``, the number of
    examples fed, is all there is to save.
    """

    examples: Sequence[Example]
    batch_size: int
    seed: int
    config: DataConfig
    position: int = 0
    virtual: int = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        places = range(self.position, self.position + self.batch_size)
        batch = [self.examples[self._index(place)] for place in places]
        self.position += self.batch_size
        return collate(batch, self.config, self.virtual)

    def _index(self, place: int) -> int:
        epoch, offset = divmod(place, len(self.examples))
        return int(self._order(epoch)[offset])

    def _order(self, epoch: int) -> np.ndarray:
        cached = self.__dict__.get("_cached")
        if cached is None or cached[0] != epoch:
            bits = np.random.Philox(key=np.array([self.seed, epoch], np.uint64))
            order = np.random.Generator(bits).permutation(len(self.examples))
            cached = self.__dict__["_cached"] = (epoch, order)
        return cached[1]


def held_out(
    examples: Sequence[Example], batch_size: int, config: DataConfig, virtual: int = 0
) -> Iterator[Batch]:
    """The examples in order; the last batch is filled up with rows of no weight."""
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        batch = collate([*chunk, *[chunk[0]] * (batch_size - len(chunk))], config, virtual)
        batch.weight_BT[len(chunk) :] = 0
        yield batch
