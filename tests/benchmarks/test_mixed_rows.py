"""The benchmark of mixed rows in a small form."""

import sys

import pytest

from benchmarks import mixed_rows
from benchmarks.mixed import cases, check


def lines(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["mixed_rows", "--tiny", *arguments])
    mixed_rows.main()
    return capsys.readouterr().out.splitlines()


def cells(found, name):
    rows = [line.split("|") for line in found if line.startswith("|")]
    return [row for row in rows if row[3].strip() == name]


@pytest.mark.long
def test_every_case_is_checked_and_timed(monkeypatch, capsys):
    found = lines(monkeypatch, capsys, "--repeats=2")
    for case in cases.CASES:
        for row, size in zip(cells(found, case), (["2", "3"], ["1", "4"]), strict=True):
            assert [cell.strip() for cell in row[1:3]] == size
            assert float(row[4]) > 0
            assert float(row[7]) == 1 if case == "base" else float(row[7]) > 0
            assert ("%" in row[10]) == (case == "base")
    checks = [line for line in found if "beside each alone" in line]
    assert len(checks) == len(cases.CASES) - 1
    assert any("the kernel in bfloat16" in line for line in found)


def test_one_case_beside_the_base(monkeypatch, capsys):
    found = lines(monkeypatch, capsys, "--repeats=1", "--no-check", "--cases", "vera")
    assert [len(cells(found, name)) for name in ("base", "vera")] == [2, 2]
    assert any("MB an adapter in a slot of 2 layers" in line for line in found)


@pytest.mark.long
def test_training(monkeypatch, capsys):
    found = lines(monkeypatch, capsys, "--only-train", "--no-check", "--repeats=1")
    rows = [line.split("|")[1].strip() for line in found if "| 3 | 8 |" in line]
    assert rows == ["base", "tera structured", "tera dense"]


def test_rows_of_another_adapter_fail_the_check(monkeypatch):
    right = check.make_bank

    def wrong(adapter, params, frozen, d):
        return right(adapter, params, frozen, [d[1], d[0], d[2]])

    monkeypatch.setattr(check, "make_bank", wrong)
    with pytest.raises(ValueError, match="mixed rows differ"):
        check.rows(["lora r=16"])
