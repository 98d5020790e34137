"""Examples of token ids to batches of one shape."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..config import DataConfig
from . import packing
from .examples import Example, num_targets, row_length


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


def collate(examples: Sequence[Example], config: DataConfig, virtual: int = 0) -> Batch:
    """One batch of the shapes that ``config`` fixes, so that a step is traced once.

    L is ``virtual + max_prompt + max_response``, or ``virtual + max_tokens`` if that is less; T is
    ``max_response``, or all but the virtual tokens and the first when the loss is on the prompt
    too.
    """
    length = row_length(config, virtual)
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
    sizes = iter(_sizes([example for row_ in rows for example in row_], config, virtual))
    for number, examples in enumerate(rows):
        token, target = 0, 0
        for place, example in enumerate(examples):
            size = next(sizes)
            tokens = slice(token, token := token + size.tokens)
            targets = slice(target, target := target + size.targets)
            ids = [*example.prompt, *example.response]
            batch.tokens_BL[number, tokens] = ids
            lengths_BM[number, place] = size.tokens
            batch.target_positions_BT[number, targets] = np.arange(token - size.targets, token) - 1
            batch.target_BT[number, targets] = ids[size.tokens - size.targets :]
            batch.weight_BT[number, targets] = 1
    return batch


def _sizes(examples: Sequence[Example], config: DataConfig, virtual: int) -> list[packing.Size]:
    """The tokens of each, and those of them that the loss is on."""
    tokens, targets = num_targets(examples, config, virtual)
    return list(map(packing.Size, tokens.tolist(), targets.tolist()))


def measure(
    examples: Sequence[Example], config: DataConfig, virtual: int
) -> tuple[list[packing.Size], packing.Row]:
    """The size of each example, and the limits of a packed row."""
    sizes = _sizes(examples, config, virtual)
    length = config.packed_length or row_length(config, virtual)
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
