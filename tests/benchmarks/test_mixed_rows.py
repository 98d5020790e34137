"""The benchmark of mixed rows in a small form."""

import sys

import pytest

from benchmarks import mixed_cases, mixed_rows


def lines(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["mixed_rows", "--tiny", *arguments])
    mixed_rows.main()
    return capsys.readouterr().out.splitlines()


def test_every_case_is_checked_and_timed(monkeypatch, capsys):
    found = lines(monkeypatch, capsys, "--repeats=2", "--train")
    for case in mixed_cases.CASES:
        rows = [line.split("|") for line in found if line.startswith("|") and f" {case} " in line]
        for layers, batch in ((2, 3), (1, 4)):
            (row,) = [row for row in rows if row[1:3] == [f" {layers} ", f" {batch} "]]
            assert float(row[4]) > 0
            assert (row[7] == " 1.000 ") == (case == "base")
            assert ("%" in row[10]) == (case == "base")
    checks = [line for line in found if "beside each alone" in line]
    assert len(checks) == len(mixed_cases.CASES) - 1
    trained = [line for line in found if "| 3 | 8 |" in line]
    assert [line.split("|")[1].strip() for line in trained] == [
        "base",
        "tera structured",
        "tera dense",
    ]


def test_rows_of_another_adapter_fail_the_check(monkeypatch):
    right = mixed_rows.make_bank

    def wrong(adapter, params, frozen, d):
        return right(adapter, params, frozen, [d[1], d[0], d[2]])

    monkeypatch.setattr(mixed_rows, "make_bank", wrong)
    with pytest.raises(ValueError, match="mixed rows differ"):
        mixed_rows.check(["lora r=16"])
