"""Nothing is saved, chosen or exported that is not a number."""

import json
import math
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from tests.marks import quick_only
from train import data, export
from train.config import parse
from train.data import records
from train.evaluation import measure
from train.training import loop
from train.training import run as runs
from train.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def parts(tiny_llama, records_path):
    """A run that saves after each step, and its records."""
    from tests.train.conftest import make_config

    config = make_config(tiny_llama, records_path)
    config.loop.update(steps=4, eval_every=2, checkpoint_every=1, log_every=1)
    run = runs.build(parse(config))
    examples = (
        data.tokenize(part, run.tokenizer, run.config.data)
        for part in records.split(run.config.data)
    )
    return run, *examples


def with_nan(tree, name):
    """The tree with NaN in the first array whose path has the name."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    chosen = next(i for i, (path, _) in enumerate(paths) if name in jax.tree_util.keystr(path))
    leaves = [leaf * jnp.nan if i == chosen else leaf for i, (_, leaf) in enumerate(paths)]
    return jax.tree.unflatten(treedef, leaves)


def fit(parts, workdir, **patches):
    run, train, valid = parts
    workdir.mkdir()
    with jax.set_mesh(run.mesh), mock.patch.multiple(loop, **patches):
        loop.fit(run, workdir, train, valid)


def saved(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.latest


@pytest.mark.parametrize("name", quick_only([".nu"], [".d", ".mu", ".nu"]))
def test_a_state_that_is_not_finite_is_not_saved(parts, tmp_path, name):
    make = loop.make_train_step

    def poisoned(*args, **kwargs):
        step = make(*args, **kwargs)

        def poison(state, *rest):
            state, metrics = step(state, *rest)
            return (with_nan(state, name) if int(state.step) == 3 else state), metrics

        return poison

    workdir = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=r"step 3 has left NaN or infinity in (d|opt)/"):
        fit(parts, workdir, make_train_step=poisoned)
    assert saved(workdir) == 2
    found = json.loads((workdir / "not_finite-3.json").read_text())
    assert len(found["examples"]) == 8
    assert found["array"].startswith(("d/", "opt/"))


def test_a_held_out_loss_that_is_not_finite_is_not_saved(parts, tmp_path):
    workdir, losses = tmp_path / "run", iter([2.0, math.nan])
    with pytest.raises(FloatingPointError, match="step 4 has a held-out loss of nan"):
        fit(parts, workdir, held_out_loss=lambda *_: next(losses))
    assert saved(workdir) == 3
    text = (workdir / "not_finite-4.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["held_out_loss"] == "nan"
    assert "NaN" not in (workdir / "metrics.jsonl").read_text()


def test_a_held_out_loss_before_training_must_be_finite(parts, tmp_path):
    run, _, valid = parts
    with (
        jax.set_mesh(run.mesh),
        mock.patch.object(measure, "held_out_loss", return_value=math.inf),
        pytest.raises(FloatingPointError, match="the held-out loss of step 0 is inf"),
    ):
        measure.measure(run, 0, runs.init_d(run), tmp_path, valid, {})
    assert not (tmp_path / "held-out").exists()


@pytest.mark.parametrize("format", ["adapter", "orbax", "hf"])
def test_no_export_has_a_number_that_is_not_finite(parts, tmp_path, format):
    run, _, _ = parts
    d = with_nan(runs.init_d(run), "v_proj")
    with pytest.raises(
        ValueError, match=r"v_proj.* of the .* has entries that are NaN or infinite"
    ):
        export.export(run, d, format, tmp_path / format)
    assert list(tmp_path.iterdir()) == []
