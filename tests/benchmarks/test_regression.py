"""The comparison of ratios with those that a card is known for."""

import json
import re
import sys

import pytest

from benchmarks import regression, speed
from benchmarks.cases import FROZEN
from benchmarks.steps import Measurement
from tests.pages.commands import ROOT
from train import command

SETTING = regression.Setting("llama-2-7b", 8, 32, 256, "dots", "data=1")


def rows(**seconds):
    return [Measurement(name, 8192, step_seconds=time) for name, time in seconds.items()]


def entry(found, **changes):
    return regression.measured(found, SETTING, "the command")._replace(**changes)


KNOWN = entry(rows(frozen=0.1, lora=0.106, tera=0.118))


def test_ratios_are_to_the_frozen_base_of_the_same_tokens_and_kind():
    found = rows(frozen=0.1, lora=0.106)
    found += [Measurement(FROZEN, 512, step_seconds=0.01), Measurement("lora", 512)]
    found += [Measurement("tera", 512, step_seconds=0.02)]
    assert regression.to_frozen(found)[1] == pytest.approx(1.06)
    assert regression.to_frozen(found)[4] == pytest.approx(2.0)
    assert KNOWN.to_frozen == {"lora": 1.06, "tera": 1.18}


@pytest.mark.parametrize(
    ("lora", "slower"), [(0.106, []), (0.1091, []), (0.1093, ["lora"]), (0.2, ["lora"])]
)
def test_a_row_above_the_tolerance_is_slower(lora, slower):
    found = rows(frozen=0.1, lora=lora, tera=0.118)
    verdict = regression.compare([KNOWN], entry(found), found)
    assert verdict.slower == slower
    assert [("SLOWER" in line) for line in verdict.lines] == [bool(slower), False]


def test_a_line_says_by_how_much():
    found = rows(frozen=0.1, lora=0.1272, tera=0.059)
    lines, _ = regression.compare([KNOWN], entry(found), found)
    assert lines[0].startswith("lora: 1.272 times the frozen base, 1.06 expected: +20.0%, SLOWER")
    assert "-50.0%, faster: --record it" in lines[1]


def test_milliseconds_are_not_compared():
    found = rows(frozen=1.0, lora=1.06, tera=1.18)
    assert not regression.compare([KNOWN], entry(found), found).slower


def test_a_row_that_ran_out_of_memory_is_slower_and_an_unknown_one_is_named():
    found = rows(frozen=0.1, lora=0.106, vera=0.11)
    found.append(Measurement("tera", 8192, note="out of memory"))
    lines, slower = regression.compare([KNOWN], entry(found), found)
    assert slower == ["tera"]
    assert "vera: 1.1, and no ratio is expected" in lines[1]
    assert "out of memory" in lines[2]


@pytest.mark.parametrize(
    "other",
    [{"device": "another card"}, {"jax": "0.0.1"}, {"setting": {**KNOWN.setting, "layers": 32}}],
    ids=lambda other: next(iter(other)),
)
def test_without_an_entry_one_line_has_the_json_to_add(other):
    found = rows(frozen=0.1, lora=9.0)
    now = entry(found)
    (line,), slower = regression.compare([KNOWN._replace(**other)], now, found)
    assert not slower
    assert json.loads(line[line.index("{") :]) == now._asdict()


def test_what_is_recorded_is_expected_from_then_on(tmp_path):
    file = tmp_path / "expected.json"
    regression.record(file, KNOWN._replace(device="another card"))
    regression.record(file, KNOWN._replace(tolerance=0.5))
    regression.record(file, entry(rows(frozen=0.1, lora=0.11)))
    other, mine = regression.load(file)
    assert other == KNOWN._replace(device="another card")
    assert mine == KNOWN._replace(tolerance=0.5, to_frozen={"lora": 1.1, "tera": 1.18})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": 0}, r"entries\[0\]\.tolerance to 0"),
        ({"to_frozen": {"lora": -1.0}}, r"entries\[0\]\.to_frozen"),
        ({"setting": {}}, r"entries\[0\]\.setting\.model"),
        ({"more": 1}, "unknown key"),
    ],
)
def test_a_bad_file_is_named_with_its_key(change, message, tmp_path):
    file = tmp_path / "expected.json"
    file.write_text(json.dumps({"entries": [KNOWN._asdict() | change]}))
    with pytest.raises(ValueError, match=message):
        regression.load(file)


def test_the_file_has_the_ratios_of_the_docs():
    (h100,) = [each for each in regression.load(regression.FILE) if "H100" in each.device]
    page = (ROOT / "docs" / "performance.md").read_text()
    first = page[: page.index("## Which targets")]
    printed = re.findall(r"^\| (.+?) \| [\d,]+ \| (1\.\d+) \|", first, re.MULTILINE)
    assert sorted(h100.to_frozen.values()) == sorted(
        float(ratio)
        for name, ratio in printed
        if not re.search("PEFT|frozen base|rematerialisation", name)
    )
    flags = h100.command.removeprefix("python -m benchmarks.speed ")
    assert (
        flags.split()
        == re.search(r"benchmarks\.speed (.*?)```", first, re.DOTALL)[1]
        .replace("\\\n", " ")
        .split()
    )


class FakeBench:
    """Steps of which LoRA's takes a time that the test sets."""

    size, lora = 1, 0.106

    def __init__(self, shape, *_):
        self.config = type("Config", (), {"hidden_size": shape["hidden_size"]})

    def measure(self, case):
        seconds = {FROZEN: 0.1, "lora": FakeBench.lora}.get(case.method, 0.118)
        return Measurement(case.name, 8192, 1.0, seconds, 1, 1.0, 2.0, 1.9, 1)


@pytest.fixture
def guard(monkeypatch, tmp_path):
    """``guard(*flags, lora=seconds)`` runs the command."""
    monkeypatch.setattr(speed, "Bench", FakeBench)
    monkeypatch.setattr(speed, "matmul_rate", lambda *_: 1e12)

    def run(*flags, lora=0.106):
        monkeypatch.setattr(FakeBench, "lora", lora)
        given = ["speed", f"--expected={tmp_path / 'expected.json'}", *flags]
        monkeypatch.setattr(sys, "argv", given)
        command.run(speed.main)

    return run


def test_the_command_records_and_then_ends_with_status_1_where_a_row_is_slower(guard, capsys):
    guard("--check")
    assert "no expected ratios for" in capsys.readouterr().out
    guard("--record")
    guard("--check")
    guard("--check", lora=0.109)
    assert "SLOWER" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        guard("--check", lora=0.11)
    assert stop.value.code == 1
    assert capsys.readouterr().out.endswith("slower: lora\n")
    guard("--check", "--cases", "tera", lora=0.11)
    assert "tera: 1.18 times" not in capsys.readouterr().out  # of 32 layers, not of 8


@pytest.mark.parametrize(
    "flags",
    [["--sweep=order"], ["--mesh", "data=1", "data=2"], ["--quantize", "fp8"], ["--anchors"]],
    ids=lambda flags: flags[0],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(guard, capsys, flags):
    with pytest.raises(SystemExit) as stop:
        guard("--check", *flags)
    assert stop.value.code == 2
    assert flags[0].split("=")[0] in capsys.readouterr().err
