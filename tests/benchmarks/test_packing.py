"""The benchmark of how full packed rows are."""

import sys

import numpy as np
import pytest

from benchmarks import packing
from benchmarks.batches import commonsense
from train.data import Example
from train.data.packing import Row, Size


def test_what_is_filled_are_tokens_of_the_places_of_all_steps():
    sizes = [Size(4096, 1), Size(2048, 1)]
    assert packing.filled(sizes, range(2), Row(4096, 8, 8)) == 0.75
    assert packing.filled(sizes[1:], range(1), Row(2048, 8, 8)) == 0.5


def test_the_table_has_more_filled_by_the_second_order():
    random = np.random.default_rng(0)
    lengths = 20 + random.gamma(2, 50, 4000).clip(0, 400)
    examples = [Example.of([0] * (int(tokens) - 1), [0]) for tokens in lengths]
    _, _, *rows = packing.table(examples, commonsense())
    assert len(rows) == len(packing.LENGTHS)
    for row in rows:
        before, after = (float(cell.strip(" %")) for cell in row.split("|")[2:4])
        assert 80 < before < after <= 100


def test_a_file_is_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["packing"])
    with pytest.raises(SystemExit):
        packing.main()
