"""Examples of token ids to batches of one shape."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ..config import DataConfig
from . import packing, tokens
from .examples import Example, num_targets


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


def collate(
    examples: Sequence[Example],
    config: DataConfig,
    virtual: int = 0,
    row: packing.Row | None = None,
) -> Batch:
    """One batch with an example in each row, of the shapes of ``row``: see :func:`single_row`."""
    row = single_row(examples, config, virtual) if row is None else row
    batch = fill([[example] for example in examples], row, config, virtual)
    return batch._replace(lengths_BM=None)


def single_row(examples: Sequence[Example], config: DataConfig, virtual: int) -> packing.Row:
    """The shape of rows with one example each, so that a step is traced once for all examples.

    Under a named template L is ``virtual + max_prompt + max_response``, or ``virtual + max_tokens``
    if that is less; T is ``max_response``, or all but the virtual tokens and the first when the
    loss is on all. Under ``auto`` and ``plain`` the longest example gives both, rounded up to
    multiples of 8.
    """
    if not config.whole_rows:
        length = tokens.row_length(config, virtual)
        all_but_first = length - max(1, virtual)
        targets = all_but_first if config.loss_on_all else config.max_response
        return packing.Row(length, targets, records=1)
    most, most_targets = _most(num_targets(examples, config, virtual))
    return packing.Row(_rounded(most), _rounded(most_targets), records=1)


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
        start, target = 0, 0
        for record, example in enumerate(examples):
            ids = np.asarray(example.ids, np.int32)
            found = target_indices(example, config, virtual)
            batch.tokens_BL[number, start : start + len(ids)] = ids
            lengths_BM[number, record] = len(ids)
            targets = slice(target, target := target + len(found))
            batch.target_positions_BT[number, targets] = start + found - 1
            batch.target_BT[number, targets] = ids[found]
            batch.weight_BT[number, targets] = 1
            start += len(ids)
    return batch


def target_indices(
    example: Example, config: DataConfig, virtual: int
) -> Int[np.ndarray, "targets"]:
    """Where the tokens of an example are that the loss is on; :func:`num_targets` counts them."""
    if config.loss_on_all:
        return np.arange(max(1, virtual), max(1, virtual, len(example.ids)))
    return np.flatnonzero(np.asarray(example.mask, np.uint8)[1:]) + 1


def _most(counts: Iterable[np.ndarray]) -> packing.Size:
    """The most tokens and the most targets of any example, from those of each."""
    return packing.Size(*(int(count.max(initial=1)) for count in counts))


def _rounded(count: int) -> int:
    return 8 * math.ceil(count / 8)


def measure(
    examples: Sequence[Example], config: DataConfig, virtual: int
) -> tuple[list[packing.Size], packing.Row]:
    """The size of each example, and the limits of a packed row.

    Under ``auto`` and ``plain`` a row is as long as the longest example, where that is longer than
    ``packed_length``.
    """
    counts = num_targets(examples, config, virtual)
    sizes = list(map(packing.Size, *(count.tolist() for count in counts)))
    if config.whole_rows:
        most, least = _most(counts)
        length = max(config.packed_length or 0, _rounded(most))
    else:
        length = config.packed_length or tokens.row_length(config, virtual)
        least = config.max_response
    return sizes, packing.limits(sizes, length, length if config.loss_on_all else least)


def by_row(
    examples: Iterable[Example], row_of_each: Sequence[int], rows: int
) -> list[list[Example]]:
    """The examples of each row, from the row of each example."""
    result: list[list[Example]] = [[] for _ in range(rows)]
    for example, row in zip(examples, row_of_each, strict=True):
        result[row].append(example)
    return result


def num_tokens(batch: Batch) -> int:
    """Tokens of a batch without its padding; of rows with one record, up to its last target."""
    if batch.lengths_BM is not None:
        return int(batch.lengths_BM.sum())
    return int((batch.target_positions_BT.max(axis=1) + 2).sum())
