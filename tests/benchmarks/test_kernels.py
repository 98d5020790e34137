"""The benchmark of the kernels by themselves, in a small form."""

import sys

import pytest

from benchmarks import kernels
from tests.margins import roundings, within


@pytest.mark.long
def test_each_kernel_is_timed_and_held_to_float32(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "CALLS", 2)
    monkeypatch.setattr(kernels, "STEPS", 1)
    monkeypatch.setattr(sys, "argv", ["kernels", "--scheme=256|16x16", "--tokens", "64"])
    kernels.main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 6
    for row in rows:
        _, _, tokens, ours, xla, ratio, differs, _ = row.split("|")
        assert int(tokens) == 64
        within(abs(float(xla) / float(ours) - float(ratio)), 0.05)  # of what is rounded
        for part in map(float, differs.split(",")):
            assert part > 1e-4
            within(part, roundings("bfloat16", 8))  # of three modes and the tokens, twice


@pytest.mark.long
def test_of_two_schemes_each_has_a_table(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "CALLS", 1)
    monkeypatch.setattr(kernels, "STEPS", 1)
    schemes = ["16x16|256", "192|4x6x4x6"]
    monkeypatch.setattr(sys, "argv", ["kernels", "--tokens", "32", "--scheme", *schemes])
    kernels.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "| ---" not in line and line[0] != "|"] == schemes
    rows = [line.split("|") for line in lines if line.startswith("| structured")]
    assert len(rows) == 4
    for row in rows:
        for part in map(float, row[6].split(",")):
            within(part, roundings("bfloat16", 12))


@pytest.mark.parametrize(("scheme", "tokens"), [("256|4x64", "64"), ("256|16x16", "40")])
def test_what_the_kernels_do_not_take_is_refused(scheme, tokens, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kernels", f"--scheme={scheme}", "--tokens", tokens])
    with pytest.raises(SystemExit):
        kernels.main()
    error = capsys.readouterr().err
    assert f"the kernels do not take {scheme!r} with {tokens} tokens" in error


def test_another_result_differs():
    scheme = kernels.Tensorization.parse("256|16x16")
    exact, other = kernels.draw(scheme, 32), kernels.draw(scheme, 64)
    assert kernels.difference(exact.kernel_JO, exact.kernel_JO) == 0
    assert kernels.difference(exact.kernel_JO, other.kernel_JO) == 0  # the same draw
    assert kernels.difference(exact.x_TJ, exact.x_TJ[::-1]) > 1
