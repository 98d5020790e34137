"""The benchmark of training steps: its cases, its checks and its table."""

import json
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import batches, speed, steps
from benchmarks.cases import ALL, FROZEN, Case, named
from benchmarks.speed import check, table
from benchmarks.steps import Measurement
from tests.margins import close
from train import data


@pytest.fixture(scope="module")
def bench():
    return steps.Bench(steps.TINY, jnp.float32, steps=2)


@pytest.mark.long
def test_steps_start_at_the_frozen_base_and_go_down(bench):
    cases = [
        Case(FROZEN, 2, 16),
        Case("tera", 2, 16, "none", route="build"),
        Case("tera", 2, 16, route="through"),
        Case("tera", 2, 16, "full", route="build", ahead=True),
        Case("lora", 2, 16, targets=ALL),
        Case("tera", 2, 16, loop=True),
        Case("tera", 2, 16, fused=True, fields=(("tensorizations", ("64|16x4",)),)),
        Case("tera", 2, 16, fields=(("structure", "hadamard"),)),
    ]
    found = [bench.measure(case) for case in cases]
    check(found)
    assert len({row.name for row in found}) == len(cases)
    assert [row.trained for row in found[:4]] == [64, 304, 304, 304]
    for row in found:
        assert row.tokens == 32
        close(row.tokens_per_second * row.step_seconds, 32, rtol=1e-9, atol=0)
        assert row.peak_bytes > 0
        assert row.compile_seconds > 0


@pytest.mark.long
def test_steps_on_a_quantised_base_start_at_it_and_take_less_memory(bench):
    kept = steps.Bench(steps.TINY, jnp.float32, steps=1, kind="nf4", block=32)
    assert kept.size == bench.size
    cases = [Case(FROZEN, 2, 16, "full", loop=True), Case("tera", 2, 16, "full", loop=True)]
    found, plain = ([each.measure(case) for case in cases] for each in (kept, bench))
    check(found)
    assert found[0].first_loss != plain[0].first_loss
    assert all(a.peak_bytes < b.peak_bytes for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize(("remat", "products"), [("dots", 3), ("full", 4)])
@pytest.mark.parametrize("ahead", [True, False])
def test_a_step_has_three_products_of_the_kernel_s_size(remat, products, ahead):
    """For each of q and v: the update, x with the cotangent, and a factor with that product.

    Full rematerialisation makes the update again, unless it was built ahead.
    """
    shape = steps.TINY | {"hidden_size": 128, "num_hidden_layers": 3}
    wide = steps.Bench(shape, jnp.float32, steps=1)
    fields = (("tensorizations", ("128|8x16",)),)
    case = Case("tera", 2, 24, remat, fields=fields, route="build", ahead=ahead)
    text = wide.lower(case, steps.random_batch(2, 24, 256)).step.as_text()
    made = re.findall(r"dot_general.*-> tensor<([\dx]*)xf32>", text)
    square = [one for one in made if sorted(map(int, one.split("x")))[-2:] == [128, 128]]
    small = [one for one in square if set(one.split("x")) <= {"1", "128"}]
    assert len(small) == 2 * (3 if ahead else products)


@pytest.mark.long
def test_bases_of_several_kinds_stand_in_one_table(monkeypatch, tmp_path, capsys):
    argv = f"speed --model=tiny --rows=1 --length=8 --steps=1 --output={tmp_path / 'rows'}"
    monkeypatch.setattr(sys, "argv", argv.split())
    sys.argv += ["--quantize", "none", "fp8", "fp8:both", "--cases", "frozen", "lora"]
    speed.main()
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    names = ["frozen", "lora", "frozen fp8", "lora fp8", "frozen fp8:both", "lora fp8:both"]
    assert [row["name"] for row in rows] == names
    assert [row["base"] for row in rows] == ["none"] * 2 + ["fp8"] * 2 + ["fp8:both"] * 2
    assert all(f"| {name} |" in printed for name in names)
    assert len(re.findall(r"(fp8|both): \d+ matmuls of e4m3 codes", printed)) == 4
    losses = [row["first_loss"] for row in rows]
    assert losses[0] == losses[1] != losses[2]
    assert len({*losses[2:]}) == 1
    assert rows[4]["peak_bytes"] > rows[2]["peak_bytes"]
    close(losses[2], losses[0], rtol=0.01, atol=0)
    frozen = {row["base"]: row["step_seconds"] for row in rows if "frozen" in row["name"]}
    for row in rows:
        cells = next(line for line in printed.splitlines() if line.startswith(f"| {row['name']} |"))
        assert cells.split("|")[4].strip() == f"{row['step_seconds'] / frozen[row['base']]:.3f}"


def test_another_start_or_a_loss_that_does_not_fall_is_an_error():
    base = Measurement(FROZEN, 32, first_loss=2.0, last_loss=1.9)
    check([base, Measurement("tera", 32, first_loss=2.001, last_loss=1.9)])
    check([base, Measurement("lora", 32, note="out of memory")])
    with pytest.raises(ValueError, match=r"starts at 2\.1"):
        check([base, Measurement("tera", 32, first_loss=2.1, last_loss=1.9)])
    with pytest.raises(ValueError, match="has not fallen"):
        check([base, Measurement("tera", 32, first_loss=2.0, last_loss=2.0)])


def test_the_table_has_ratios_to_base_and_anchor():
    def row(name, seconds):
        return Measurement(name, 100, 100 / seconds, seconds, 2**30, 3.0, 2.0, 1.9, 7)

    rows = [row("PEFT lora compiled", 0.5), row(FROZEN, 0.4), row("tera", 0.44)]
    lines = list(
        table([*rows, Measurement("hira", 100, note="out of memory")], size=1000, rate=1e6)
    )
    cells = [cell.strip() for cell in lines[4].split("|")]
    assert cells[1:6] == ["tera", "100", "227", "1.100", "1.136"]
    assert cells[8] == "90.9%"
    assert "out of memory" in lines[5]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_the_command_prints_a_table(monkeypatch, tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    argv = f"speed --model=tiny --rows=1 --length=8 --steps=1 --output={output}"
    monkeypatch.setattr(sys, "argv", [*argv.split(), "--cases", "frozen", "tera:build"])
    sys.argv.append("tera:structured:orthogonal")
    speed.main()
    assert "| tera build | 8 |" in capsys.readouterr().out
    assert [json.loads(line)["name"] for line in output.read_text().splitlines()] == [
        "frozen",
        "tera build",
        "tera structure=hadamard init=orthogonal",
    ]


@pytest.fixture
def commonsense(tmp_path):
    """Records of unlike lengths, some of which are long."""
    path = tmp_path / "records.json"
    rows = [
        {
            "instruction": "word " * (5 + 17 * i % 60),
            "input": "",
            "output": "the correct answer is true",
            "answer": "true",
        }
        for i in range(200)
    ]
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.mark.long
def test_real_records_are_the_same_packed_padded_and_for_peft(commonsense, tiny_llama, bench):
    real = batches.read_records(commonsense, str(tiny_llama), 256, count=3, packed=544)
    assert len(real.packed) == len(real.padded) == 3
    assert {batch.tokens_BL.shape for batch in real.padded} == {(32, 272)}
    (shape,) = {batch.tokens_BL.shape for batch in real.packed}
    assert shape[1] == 544
    records = [np.count_nonzero(batch.lengths_BM) for batch in real.packed]
    assert 20 < np.mean(records) < 44
    for batch in real.padded:
        theirs = batches.for_peft(batch)
        assert theirs.real == data.num_tokens(batch)
        pairs = [
            (int(row), int(place), int(theirs.labels_BL[row, place]))
            for row, place in np.argwhere(theirs.labels_BL >= 0)
        ]
        weighted = np.argwhere(batch.weight_BT > 0)
        expected = [
            (int(row), int(batch.target_positions_BT[row, t]) + 1, int(batch.target_BT[row, t]))
            for row, t in weighted
        ]
        assert pairs == sorted(expected)
        assert (theirs.tokens_BL == batch.tokens_BL[:, : theirs.tokens_BL.shape[1]]).all()
    padded = bench.measure(Case("tera", 0, 0), real.padded)
    packed = bench.measure(Case("tera", 0, 0, packed=544), real.packed)
    assert packed.tokens < padded.tokens
    assert packed.name == "tera packed 544"


@pytest.mark.long
def test_packed_records_are_measured_on_each_base(commonsense, tiny_llama, monkeypatch, capsys):
    argv = "speed --model=tiny --layers=1 --steps=1 --packed=512 --quantize none fp8"
    monkeypatch.setattr(sys, "argv", argv.split())
    sys.argv += [f"--records={commonsense}", f"--tokenizer={tiny_llama}"]
    sys.argv += ["--cases", "frozen", "tera:structured"]
    speed.main()
    printed = capsys.readouterr().out
    for name in ("frozen packed 512", "tera packed 512 structure=hadamard"):
        for base in ("", " fp8"):
            assert f"| {name}{base} |" in printed
    assert len(re.findall(r"packed 512.* fp8: \d+ matmuls of e4m3 codes", printed)) == 2


def test_an_unknown_option_of_a_case_is_refused(monkeypatch):
    argv = "speed --model=tiny --rows=1 --length=8 --cases tera:quick"
    monkeypatch.setattr(sys, "argv", argv.split())
    with pytest.raises(SystemExit, match="'quick' is no option"):
        speed.main()


def test_the_sum_by_arithmetic_names_every_layer_and_its_route(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["speed", "--model=llama-2-7b", "--layers=2", "--sum"])
    speed.main()
    lines = capsys.readouterr().out.splitlines()
    assert sum("down_proj" in line for line in lines) == 3
    assert any("2x43x8x16" in line and "| project | 2 |" in line for line in lines)
    names = ["tera side=longer", "structure=hadamard_factor", "structure=hadamard all"]
    totals = [line for line in lines if "ms of the base" in line]
    assert [name in line for name, line in zip(names, totals, strict=True)] == [True] * 3
    ratios = [float(re.search(r"base: ([\d.]+)", line)[1]) for line in totals]
    assert ratios == sorted(ratios, reverse=True)
    assert 1 < ratios[-1] < 1.25


def test_a_case_may_adapt_all_linear_layers_with_the_shorter_side_whole():
    (case,) = named(["tera:all:longer:fast"], 1, 8, "dots")
    assert case.name == "tera side=longer structure=hadamard_factor all linear"
