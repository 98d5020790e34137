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
        r"400 records in a file of 0 MiB: [\d,]+ MiB at most, ([\d,]+) above its size, (\d+) s to "
        r"the end of the first step \((\d+) s of CPU time\)",
        line,
    )
    assert figures is not None, line
    assert 200 < int(figures[1].replace(",", "")) < 4000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_an_epoch_is_compared_loaded_and_streamed(smollm2_path, tmp_path):
    lines = data.compare(tmp_path, 600, str(smollm2_path)).splitlines()
    assert lines[0] == "600 records in a file of 0 MiB"
    figure = r" +[\d,.]+(?: MiB)? in the epoch, [\d,.]+ at most(?:, \d+ s)?"
    for line, name in zip(lines[1:], ("loaded", "streamed", "ratio"), strict=True):
        assert re.fullmatch(name + figure, line), line


def test_a_comparison_has_no_other_kinds(capsys):
    with pytest.raises(SystemExit):
        data.main(["--compare", "--chat", "--tokenizer=none"])
    assert "leave --chat, --streaming out" in capsys.readouterr().err
