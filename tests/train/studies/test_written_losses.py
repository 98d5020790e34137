"""Studies whose losses are written down: stopped at any line, out of memory, and diverging."""

import math

import pytest

from tera_jax import sharding
from train import compare
from train.studies import loop
from train.studies.jobs import job, trainer
from train.studies.results import Result, Results

BASE = trainer.Base(None, None, None, sharding.make_mesh(1, 1, 1), "fingerprint")


class Written:
    """A trainer whose losses are written down."""

    made = 0

    def __init__(self, base, config, parts, variant, task):
        type(self).made += 1
        if variant.startswith("hira"):
            raise MemoryError("RESOURCE_EXHAUSTED: of memory\nand a long trace")
        self._names = (variant, task)

    def __call__(self, rate, seed, steps):
        loss = abs(math.log(rate / 1e-3)) + 0.1 * seed + 1 / steps
        diverges = rate > 0.2 or (seed == 2 and self._names[0].startswith("vera"))
        loss, note = (math.inf, "the loss of step 3 is not finite") if diverges else (loss, "")
        return Result(*self._names, rate, seed, loss, loss, 7, 0.1, "none", steps, "q", 0, note)

    def untrained(self):
        return Result(*self._names, 0.0, 0, 9.0, 9.0, 0, 0.0, "none")


@pytest.fixture
def written(monkeypatch, flags):
    """A study of written losses, with a search."""
    monkeypatch.setattr(trainer, "load", lambda config: BASE)
    monkeypatch.setattr(trainer, "describe", lambda base: "base")
    monkeypatch.setattr(job, "Trainer", Written)
    return [each for each in flags if not each.startswith("--rates")]


def test_a_study_that_is_stopped_after_any_line_ends_the_same(written, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    methods = ["--methods", "lora", "tera", "--seeds=3"]
    compare.main([*written, f"--output={whole}", *methods])
    expected = (whole / loop.RESULTS).read_text()
    assert expected.count("\n") == 1 + 2 * (5 + 3 + 2) + 4  # both searches leave their decade
    append = Results.append

    def stopping(after):
        def stop(self, row):
            append(self, row)
            if len(self.runs) == after:
                raise KeyboardInterrupt

        return stop

    for after in (4, 20):
        output = tmp_path / str(after)
        monkeypatch.setattr(Results, "append", stopping(after))
        with pytest.raises(SystemExit) as caught:
            compare.main([*written, f"--output={output}", *methods])
        assert caught.value.code == 130
        monkeypatch.setattr(Results, "append", append)
        compare.main([*written, f"--output={output}", *methods])
        assert (output / loop.RESULTS).read_text() == expected


def test_memory_and_divergence_are_told_in_rows_and_in_the_status(written, tmp_path):
    flags = [*written, f"--output={tmp_path / 'out'}", "--seeds=3", "--methods", "hira", "vera"]
    with pytest.raises(SystemExit) as caught:
        compare.main(flags)
    assert caught.value.code == (
        "failed: hira on T (out of memory: RESOURCE_EXHAUSTED: of memory); "
        "vera on T (the loss of step 3 is not finite)"
    )
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| `vera` | q | 7 | 1e-03 | not finite | not finite | 3 |" in page
    assert "seed 2 at rate 1e-03: the loss of step 3 is not finite" in page
    Written.made = 0
    with pytest.raises(SystemExit, match="hira"):
        compare.main(flags)
    assert Written.made == 0
    with pytest.raises(SystemExit, match="hira"):
        compare.main([*flags, "--retry"])
    assert Written.made == 1


def test_rates_that_all_diverge_fail_the_method(written, tmp_path):
    flags = [*written, f"--output={tmp_path / 'out'}", "--methods", "lora", "--rates", "1", "2"]
    with pytest.raises(SystemExit, match=r"lora on T \(no learning rate from 1e\+00 to 2e\+00"):
        compare.main(flags)
