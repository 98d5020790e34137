"""Batches of real records: packed for us, padded for both."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from configs.commonsense import get_config
from tera_jax.llama import load_tokenizer
from train.config import DataConfig, parse
from train.data import Batch, DataIterator, Example, records, tokenize


class Real(NamedTuple):
    """Records of a file as batches: ours packed, and padded for both."""

    packed: list[Batch]
    padded: list[Batch]


def read_examples(path: str, tokenizer: str, count: int, settings: DataConfig) -> Sequence[Example]:
    """A random sample of a file's commonsense records, which may be in the order of its tasks."""
    rows = records.load(path, settings.prompt).shuffle(seed=0)
    rows = rows.select(range(min(len(rows), count)))
    return tokenize(rows, load_tokenizer(tokenizer), settings)


def read_records(path: str, tokenizer: str, vocab_size: int, count: int, packed: int) -> Real:
    """``count`` batches of 32 commonsense records, and as many packed rows of about as many.

    Token ids are of the tokenizer, modulo ``vocab_size``.
    """
    settings = commonsense()
    examples = [
        Example([token % vocab_size for token in example.ids], example.mask)
        for example in read_examples(path, tokenizer, 64 * count, settings)
    ]
    tokens = sum(len(example.ids) for example in examples)
    rows_packed = round(32 * tokens / len(examples) / packed)
    with_rows = dataclasses.replace(settings, packed_length=packed)
    return Real(
        *(
            list(itertools.islice(DataIterator(examples, batch_rows, 0, data_config), count))
            for batch_rows, data_config in ((max(1, rows_packed), with_rows), (32, settings))
        )
    )


def commonsense() -> DataConfig:
    """How configs/commonsense.py reads records."""
    config = get_config("tera")
    config.model.path = config.data.path = "-"
    return parse(config).data


def for_peft(batch: Batch) -> Any:
    """Padded to the longest row, as a data collator of transformers does."""
    from benchmarks import anchors

    length_B = batch.target_positions_BT.max(axis=1) + 2
    longest = int(length_B.max())
    labels_BL = np.full(batch.tokens_BL.shape, -100)
    row, place = np.nonzero(batch.weight_BT)
    labels_BL[row, batch.target_positions_BT[row, place] + 1] = batch.target_BT[row, place]
    mask_BL = np.arange(longest)[None] < length_B[:, None]
    whole = bool(mask_BL.all())
    trimmed = batch.tokens_BL[:, :longest], labels_BL[:, :longest]
    return anchors.Batch(*trimmed, None if whole else mask_BL)
