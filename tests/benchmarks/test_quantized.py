"""The benchmark of a quantised base's memory, loss and gradients."""

import json

import numpy as np
import pytest

from benchmarks.quantized import main
from tests.margins import within


@pytest.fixture
def files(tiny_llama, tmp_path):
    """Arguments that name a model and records."""
    rows = [
        {"instruction": f"{i}?", "input": "", "output": f"it is {i % 3}", "answer": f"{i % 3}"}
        for i in range(40)
    ]
    (tmp_path / "records.json").write_text(json.dumps(rows))
    return [
        f"--model={tiny_llama}",
        f"--data={tmp_path / 'records.json'}",
        "--rows=8",
        "--batch=8",
        "--max-prompt=32",
        "--dtype=float32",
        "--blocks=16",
    ]


def cells(printed):
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.long
def test_every_kind_is_compared_with_the_base(files, capsys):
    main(files)
    head, _, *table = cells(capsys.readouterr().out)
    assert head == ["base", "block", "bits a weight", "GiB", "held-out loss", "change"]
    assert [row[0] for row in table] == ["float32", "int8", "int4", "nf4", "fp8"]
    assert [row[1] for row in table] == ["", "16", "16", "16", ""]
    assert [row[2] for row in table][:4] == ["32.00", "9.00", "5.00", "5.00"]
    assert 8.5 < float(table[4][2]) < 9  # 32 bits of a scale for 32 or 48 inputs
    assert table[0][5] == ""
    changes = [abs(float(row[5].rstrip("%"))) for row in table[1:]]
    within(changes[0], 0.5)
    within(max(changes), 5)


@pytest.mark.long
def test_gradients_stand_beside_that_on_the_base(files, capsys):
    main([*files, "--gradients=lora", "--kinds", "int8", "int4", "nf4", "fp8", "fp8:both"])
    head, _, *table = cells(capsys.readouterr().out)
    assert head[6:] == ["cosine", "layer 0", "layer 1"]
    kinds = ["float32", "int8", "int4", "nf4", "fp8", "fp8:both", "fp8 backward"]
    assert [row[0] for row in table] == kinds
    found = dict(zip(kinds, np.asarray([row[6:] for row in table], float), strict=True))
    assert found["float32"].tolist() == [1, 1, 1]
    for kind in kinds[1:]:
        assert np.all(found[kind] > 0.9)
        assert np.all(found[kind] < 1)
    assert np.all(found["int8"] > found["int4"])
    assert found["fp8:both"].tolist() == found["fp8"].tolist() != found["fp8 backward"].tolist()
    bits = {row[0]: float(row[2]) for row in table}
    within(abs(bits["fp8:both"] - bits["fp8"] - 8), 0.02)  # of what is rounded
