"""The adapters of a run, with their records: read before the base is loaded, fed after."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .. import data
from ..command import is_user_error
from ..data import Batch, DataIterator, Examples, Prepared, records
from ..data.batches import single_row
from ..data.packing import Row
from ..training.optim import rates, require_schedule
from .specification import Specification


@dataclasses.dataclass(frozen=True)
class Read:
    """An adapter and what its records became.

    Attributes:
        specification: of the adapter.
        prepared: its training and held-out examples.
        identities: of its records, by the field of its configuration.
        counts: of its records, likewise.
    """

    specification: Specification
    prepared: Prepared
    identities: dict[str, str]
    counts: dict[str, int]

    def named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by field, under names that no other adapter of the run has."""
        name = self.specification.name
        return {field.replace("config", name, 1): value for field, value in values.items()}


@dataclasses.dataclass(frozen=True)
class Member:
    """An adapter that is ready to be trained.

    Attributes:
        specification: of the adapter.
        stream: of its training examples.
        held_out: its held-out examples.
        steps: that it is trained for.
        rates: of its steps, (steps,).
        identities: as of :class:`Read`.
        counts: likewise.
    """

    specification: Specification
    stream: DataIterator
    held_out: Examples
    steps: int
    rates: np.ndarray
    identities: dict[str, str]
    counts: dict[str, int]

    @property
    def name(self) -> str:
        """Of the adapter."""
        return self.specification.name


def read(found: Specification, tokenizer: data.Tokenizer) -> Read:
    """Read and tokenise the records of one adapter.

    Raises:
        FileNotFoundError: for records that are not there; as the next, it names the line.
        ValueError: as :func:`train.data.prepare`.
    """
    config = found.config.data
    try:
        sources = records.sources(config)
        identities, counts = records.identities(sources, config), records.counts(sources)
        prepared = data.prepare(config, tokenizer, sources)
    except (ValueError, OSError) as error:
        if not is_user_error(error):
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{found.where} ({found.name!r}): {error}") from None
    return Read(found, prepared, identities, counts)


def member(given: Read, virtual: Sequence[int], limit: int) -> Member:
    """An adapter with what follows from the model.

    Args:
        given: the adapter and its records.
        virtual: token ids that the method puts before every prompt.
        limit: tokens of the model's context.

    Raises:
        ValueError: for records that do not fit the model; it names the adapter's line.
    """
    found, config = given.specification, given.specification.config
    loop = config.loop
    train, held_out = (
        part.after(virtual) for part in (given.prepared.train, given.prepared.held_out)
    )
    try:
        for name, part in (("training", train), ("held-out", held_out)):
            data.require_context(part, config.data, limit)
            data.require_targets(part, config.data, name, len(virtual))
        stream = DataIterator(train, loop.batch_size, loop.seed, config.data, virtual=len(virtual))
        steps = loop.steps or stream.num_steps(loop.epochs)
        require_schedule(config.optim, steps)
    except ValueError as error:
        raise ValueError(f"{found.where} ({found.name!r}): {error}") from None
    taken = rates(config.optim, steps)
    return Member(found, stream, held_out, steps, taken, given.identities, given.counts)


def common_row(members: Sequence[Member]) -> Row:
    """The shape of all batches: of each adapter's training and held-out rows the largest."""
    rows = []
    for each in members:
        config, virtual = each.stream.config, each.stream.virtual
        for examples in (each.stream.examples, each.held_out):
            if config.packed_length:
                rows.append(data.measure(examples, config, virtual)[1])
            else:
                rows.append(single_row(examples, config, virtual))
    return Row(*map(max, zip(*rows, strict=True)))


def padded(batch: Batch, row: Row) -> Batch:
    """The same rows in a larger shape: what is added has no weight and belongs to no record."""

    def pad(array_BX: np.ndarray, size: int) -> np.ndarray:
        return np.pad(array_BX, ((0, 0), (0, size - array_BX.shape[1])))

    lengths_BM = batch.lengths_BM
    return Batch(
        pad(batch.tokens_BL, row.tokens),
        pad(batch.target_positions_BT, row.targets),
        pad(batch.target_BT, row.targets),
        pad(batch.weight_BT, row.targets),
        None if lengths_BM is None else pad(lengths_BM, row.records),
    )


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches of one shape, one after the other."""

    def join(*arrays_BX: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays_BX)

    return jax.tree.map(join, *batches)


def unweighted(batch: Batch) -> Batch:
    """The same rows without a target: for a slot that trains nothing."""
    return batch._replace(weight_BT=np.zeros_like(batch.weight_BT))
