"""The shuffled, resumable order in which examples are fed."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..config import DataConfig
from . import packing
from .batches import Batch, by_row, collate, fill, measure, single_row
from .examples import Example


@dataclasses.dataclass
class DataIterator:
    """The training examples in a new random order each epoch, without end.

    Epochs follow each other within a batch, so that every example is seen once before any is seen
    twice. The order is a function of ``seed``, the epoch and the examples alone: ``position``, the
    number of examples fed, is all there is to save.

    A batch has ``batch_size`` rows of one example each. Where ``config.packed_length`` is set, a
    row has as many as the next in order fill. The random order is then changed a little, such that
    they fill more (:func:`train.data.packing.order`).
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
        if not self.config.packed_length:
            return collate(self._take(self.batch_size), self.config, self.virtual, self._single)
        sizes, row = self._sizes
        upcoming = (sizes[index] for index in self._indices(self.position))
        taken = next(packing.batches(upcoming, self.batch_size, row))
        rows = by_row(self._take(len(taken)), taken, self.batch_size)
        return fill(rows, row, self.config, self.virtual)

    def fed(self, start: int, stop: int) -> list[int]:
        """Which examples are fed from one position to another, by their index."""
        return list(itertools.islice(self._indices(start), stop - start))

    def num_steps(self, epochs: float) -> int:
        """Steps, counted from the first, that feed ``epochs`` times all examples."""
        if not self.config.packed_length:
            return math.ceil(len(self.examples) * epochs / self.batch_size)
        sizes, row = self._sizes
        count = math.ceil(len(self.examples) * epochs)
        fed = (sizes[index] for index in itertools.islice(self._indices(0), count))
        return sum(1 for _ in packing.batches(fed, self.batch_size, row))

    @functools.cached_property
    def _single(self) -> packing.Row:
        return single_row(self.examples, self.config, self.virtual)

    @functools.cached_property
    def _sizes(self) -> tuple[list[packing.Size], packing.Row]:
        return measure(self.examples, self.config, self.virtual)

    def _take(self, count: int) -> list[Example]:
        """The next examples, from here on fed."""
        start, self.position = self.position, self.position + count
        return [self.examples[index] for index in self.fed(start, self.position)]

    def _indices(self, position: int) -> Iterator[int]:
        """Which examples come from a position on, without end."""
        epoch, offset = divmod(position, len(self.examples))
        while True:
            yield from map(int, self._order(epoch)[offset:])
            epoch, offset = epoch + 1, 0

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # A batch may be of two epochs: both are kept.
            for other in self._orders.keys() - {epoch - 1, epoch + 1}:
                del self._orders[other]
            bits = np.random.Philox(key=np.array([self.seed, epoch], np.uint64))
            order = np.random.Generator(bits).permutation(len(self.examples))
            if self.config.packed_length:
                sizes, row = self._sizes
                order = order[packing.order([sizes[index] for index in order], row)]
            self._orders[epoch] = order
        return self._orders[epoch]

    @functools.cached_property
    def _orders(self) -> dict[int, np.ndarray]:
        return {}


def held_out(
    examples: Sequence[Example], batch_size: int, config: DataConfig, virtual: int = 0
) -> Iterator[Batch]:
    """The examples in order; the last batch is filled up with rows of no weight."""
    if config.packed_length:
        sizes, row = measure(examples, config, virtual)
        left = iter(examples)
        for taken in packing.batches(sizes, batch_size, row):
            rows = by_row(itertools.islice(left, len(taken)), taken, batch_size)
            yield fill(rows, row, config, virtual)
        return
    row = single_row(examples, config, virtual)
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        batch = collate([*chunk, *[chunk[0]] * (batch_size - len(chunk))], config, virtual, row)
        batch.weight_BT[len(chunk) :] = 0
        yield batch
