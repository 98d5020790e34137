"""The benchmark of gradients on a base in e4m3."""

import json

import numpy as np
import pytest

from benchmarks.fp8_gradient import main
from benchmarks.gradients import WITH_CODES


@pytest.mark.long
def test_bases_stand_beside_the_loaded_one(tiny_llama, tmp_path, capsys):
    rows = [
        {"instruction": f"{i}?", "input": "", "output": f"it is {i % 3}", "answer": f"{i % 3}"}
        for i in range(40)
    ]
    (tmp_path / "records.json").write_text(json.dumps(rows))
    files = [f"--model={tiny_llama}", f"--data={tmp_path / 'records.json'}"]
    main([*files, "--rows=8", "--batch=8", "--max-prompt=32", "--dtype=float32"])
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ")
    ]
    assert table[0][4:] == ["layer 0", "layer 1"]
    found = {row[0]: np.asarray(row[1:], np.float64) for row in table[2:]}
    assert list(found) == ["float32", *WITH_CODES]
    assert found["float32"][1:].tolist() == [1] * 4
    losses = {base: row[0] for base, row in found.items()}
    assert losses["kernels"] == losses["backward"]
    cosines = np.asarray([row[1:] for row in found.values()])[:, [0, 2, 3]]
    assert np.all(cosines[1:] > 0.97)
    assert np.all(cosines[1:] < 1)
    # The backward pass is in the gradient: below the last layer it is another than without.
    assert found["backward"][3] != found["kernels"][3]
    assert found["both"][3] != found["forward"][3]
