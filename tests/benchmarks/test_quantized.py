"""The benchmark of a quantised base's loss."""

import json

import pytest

from benchmarks.quantized import main
from tests.margins import within


@pytest.mark.long
def test_every_kind_is_compared_with_the_base(tiny_llama, tmp_path, capsys):
    rows = [
        {"instruction": f"{i}?", "input": "", "output": f"it is {i % 3}", "answer": f"{i % 3}"}
        for i in range(40)
    ]
    (tmp_path / "records.json").write_text(json.dumps(rows))
    main(
        [
            f"--model={tiny_llama}",
            f"--data={tmp_path / 'records.json'}",
            "--rows=8",
            "--batch=8",
            "--max-prompt=32",
            "--dtype=float32",
            "--blocks=16",
        ]
    )
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()[2:]
    ]
    assert [row[0] for row in table] == ["float32", "int8", "int4", "nf4", "fp8"]
    assert [row[1] for row in table] == ["", "16", "16", "16", ""]
    assert [row[2] for row in table][:4] == ["32.00", "9.00", "5.00", "5.00"]
    assert 8.5 < float(table[4][2]) < 9  # 32 bits of a scale for 32 or 48 inputs
    assert table[0][4] == ""
    changes = [abs(float(row[4].rstrip("%"))) for row in table[1:]]
    within(changes[0], 0.5)
    within(max(changes), 5)
