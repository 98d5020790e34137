"""Runs as training leaves them, with a d that is drawn and not trained."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from train.config import default, parse
from train.training import run as runs
from train.training.checkpoint import Checkpoints
from train.training.workdir import init_workdir


def config_of(model, method="tera", seed=0, targets=None, data="records.json", **fields):
    config = default(method)
    config.model.path, config.model.dtype, config.model.remat = str(model), "float32", "none"
    config.data.path = data
    config.loop.seed = seed
    config.loop.steps = 6
    if targets is not None:
        config.method.targets = targets
    for name, value in fields.items():
        config.method[name] = value
    return parse(config)


def write(path, config, loss, base=None, tokenizer="of no use"):
    """A finished run; returns what others of the same base may be given as ``base``."""
    init_workdir(path, config)
    run = runs.build(config, path, tokenizer, base=base)
    state, _ = runs.init_train_state(run, 6)
    random = np.random.default_rng(config.loop.seed)

    def trained(leaf):  # the vector that starts at zero stays small
        moved = 0.1 * random.standard_normal(leaf.shape)
        return leaf + jnp.asarray(moved, leaf.dtype)

    state = state._replace(step=jnp.asarray(6, state.step.dtype), d=jax.tree.map(trained, state.d))
    with Checkpoints(path) as checkpoints:
        checkpoints.save(state, run.meta, loss)
    rows = [{"step": 3, "held_out_loss": loss + 0.25}, {"step": 6, "held_out_loss": loss}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run.model, run.params


def evaluated(path, name, before, after):
    """Losses of a file before and after the training, as train.evaluate --compare leaves them."""
    for place, loss in (("evaluation-base", before), ("evaluation", after)):
        file = path / place / name / "summary.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"metrics": {"loss": loss}}))
