"""The table of ranks, on a run of a tiny model."""

import csv
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import svd
from tests.train.conftest import make_config
from train.config import parse
from train.training import run as runs
from train.training.workdir import init_workdir

pytestmark = pytest.mark.long


@pytest.fixture
def workdir(tiny_llama, records_path, tmp_path, monkeypatch):
    """A run whose best d is away from the start."""
    config = make_config(tiny_llama, records_path)
    config.data.validation_rows = 8
    init_workdir(tmp_path / "tera", parse(config))

    def restore_best(run, workdir):
        random = np.random.default_rng(0)
        shapes = run.adapter.abstract_d(run.params)
        return 1, jax.tree.map(
            lambda leaf: jnp.asarray(0.3 * random.standard_normal(leaf.shape), leaf.dtype), shapes
        )

    monkeypatch.setattr(runs, "restore_best", restore_best)
    return tmp_path / "tera"


def test_the_table_has_the_error_and_the_loss_of_each_rank(workdir, tmp_path, monkeypatch, capsys):
    arguments = [str(workdir), "--ranks", "1", "4", "16", "32", f"--output={tmp_path / 'svd.csv'}"]
    monkeypatch.setattr(sys, "argv", ["svd", *arguments])
    svd.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| run | method | rank | relative error |")
    assert len(lines) == 2 + 6
    header, *rows = list(csv.reader((tmp_path / "svd.csv").read_text().splitlines()))
    assert header == list(svd.COLUMNS)
    assert [row[2] for row in rows] == ["base", "exact", "1", "4", "16", "32"]
    errors, losses = ([float(row[column]) for row in rows] for column in (3, 6))
    assert errors[2] > errors[3] > errors[4] > errors[5] == 0.0
    assert abs(losses[1] - losses[0]) > 1e-2
    assert abs(losses[5] - losses[1]) < 1e-5 < abs(losses[2] - losses[1])
    assert lines[2].split(" | ")[-1] == f"{losses[0]:.4f} |"


def test_a_rank_above_every_kernel_s_is_refused(tiny_llama, records_path, tmp_path):
    init_workdir(tmp_path / "run", parse(make_config(tiny_llama, records_path)))
    with pytest.raises(ValueError, match=r"ranks \[33\]; those of .* are from 1 to 32"):
        next(svd.rows(tmp_path / "run", [33]))
