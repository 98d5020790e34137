"""The benchmark of a run's data: its records are of the size that it says, and it runs."""

import json
import re
import subprocess
import sys

import pytest

from benchmarks import data
from tera_jax.llama import load_tokenizer


@pytest.mark.long
def test_records_are_of_about_200_bytes_and_40_tokens(tmp_path, smollm2_path):
    data.write_records(tmp_path / "r.jsonl", 100)
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert 170 < sum(map(len, lines)) / len(lines) < 230
    tokenizer = load_tokenizer(smollm2_path)
    counts = [
        len(tokenizer(record["instruction"] + " " + record["output"])["input_ids"])
        for record in map(json.loads, lines)
    ]
    assert 35 < sum(counts) / len(counts) < 45
    assert len(set(lines)) == 100


@pytest.mark.long
def test_the_command_prints_its_figures(smollm2_path, tmp_path):
    command = [sys.executable, "-m", "benchmarks.data", "--records=400", f"--directory={tmp_path}"]
    found = subprocess.run(
        [*command, f"--tokenizer={smollm2_path}"], check=True, capture_output=True, text=True
    )
    line = found.stdout.splitlines()[-1]
    figures = re.fullmatch(
        r"400 records in a file of 0 MiB: ([\d,]+) MiB above its size at most, (\d+) s to the end "
        r"of the first step \((\d+) s of CPU time\)",
        line,
    )
    assert figures is not None, line
    assert 200 < int(figures[1].replace(",", "")) < 4000
    assert list(tmp_path.iterdir()) == []
