"""The pinned cases, run under the names that the code has today.

This file may follow a renaming. ``expected.json``, which has the cases and their values, may not
change: it is what a renaming must not move.
"""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import quickstart
from tera_jax.adapters.factory import make
from tera_jax.fingerprint import base_fingerprint
from tera_jax.llama import load_pretrained
from tera_jax.methods import TargetLayer
from tera_jax.methods.tera import TeRA, init_frozen
from tera_jax.network.tensorization import Tensorization
from tera_jax.random import seed_key
from train import data
from train.config import parse
from train.data import records
from train.training import run as runs
from train.training.loop import to_device
from train.training.steps.step import make_train_step


def digest(tree: Any) -> str:
    """SHA-256 of the types, shapes and bytes of all arrays, in the order of the tree's leaves."""
    result = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        result.update(f"{array.dtype} {array.shape}".encode())
        result.update(np.ascontiguousarray(array).tobytes())
    return result.hexdigest()


def _tera(settings: dict[str, Any]) -> TeRA:
    return TeRA(
        tensorizations=(settings["tensorization"],),
        num_modes=4,
        side="out",
        zero_init_mode=settings["first_zero"],
        init=settings["init"],
        gain=settings["gain"],
        sharing=settings["sharing"],
        seed=settings["seed"],
        dtype=settings["dtype"],
        structure=settings["structure"],
    )


def frozen_network(settings: dict[str, Any]) -> Any:
    """The frozen network of one kernel shape."""
    scheme = Tensorization.parse(settings["tensorization"])
    key = seed_key(settings["seed"], *settings["address"])
    return init_frozen(key, scheme, _tera(settings))


def frozen_collection(settings: dict[str, Any]) -> Any:
    """The ``frozen`` collection of an adapter on a stack of layers."""
    shape = tuple(settings["kernel_shape"])
    sites = tuple(
        TargetLayer(tuple(path.split("/")), shape, tuple(settings["stack"]))
        for path in settings["layers"]
    )
    adapter = make("tera", _tera(settings), sites)
    params: dict[str, Any] = {}
    for site in sites:
        node = params
        for name in site.path:
            node = node.setdefault(name, {})
        node["kernel"] = jnp.zeros((*site.stack, *shape), jnp.float32)
    return adapter.init_frozen(params)


def fingerprint_of_base(path: Path, dtype: str) -> str:
    """Of a checkpoint's weights."""
    _, params = load_pretrained(path, dtype=jnp.dtype(dtype))
    return base_fingerprint(params)


def first_losses(settings: dict[str, Any]) -> list[float]:
    """The training losses of the quickstart's first steps."""
    config = quickstart.get_config()
    config.loop.steps = settings["steps"]
    config.loop.batch_size = settings["batch_size"]
    config.loop.seed = settings["seed"]
    config.optim.learning_rate = settings["learning_rate"]
    config.optim.warmup_steps = settings["warmup_steps"]
    config.model.dtype = settings["dtype"]
    config.method.init = settings["init"]
    config.method.zero_init_mode = settings["first_zero"]
    config.method.gain = settings["gain"]
    config.method.seed = settings["frozen_seed"]
    config.method.tensorizations = tuple(settings["tensorizations"])
    config.method.targets = tuple(settings["targets"])
    run = runs.build(parse(config))
    train, _ = records.split(run.config.data)
    examples = data.tokenize(train, run.tokenizer, run.config.data)
    stream = data.DataIterator(examples, settings["batch_size"], settings["seed"], run.config.data)
    losses = []
    with jax.set_mesh(run.mesh):
        state, optimizer = runs.init_train_state(run, settings["steps"])
        step = make_train_step(
            run.model, run.adapter, optimizer, run.mesh, run.params, state, settings["seed"]
        )
        for _ in range(settings["losses"]):
            batch = to_device(next(stream), run)
            state, metrics = step(state, run.params, run.frozen, batch)
            losses.append(float(metrics.loss))
    return losses
