"""A small Llama under a method of the tests: its variants, and a real run of a few steps."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np

from tera_jax import adapt, load_adapter
from tera_jax.llama import Llama, LlamaConfig
from tests import initial
from tests.parts import SMALL, perturbed
from train import data, export
from train.config import default, parse
from train.data import records
from train.training import run as runs
from train.training.loop import fit
from train.training.workdir import init_workdir

VARIANTS = {
    "scan": {},
    "remat": {"remat": "full"},
    "unrolled": {"unroll": True, "remat": "dots"},
}
CONFIG = LlamaConfig.from_hf(SMALL)


def made(method, config, targets, variant="scan"):
    """The adapter, the model, its variables at step 0 and perturbed, and tokens."""
    model = Llama(CONFIG, **VARIANTS[variant])
    random = np.random.default_rng(0)
    params = initial.params(model, jnp.zeros((1, 2), jnp.int32))
    params = jax.tree.map(
        lambda p: p + jnp.asarray(0.1 * random.standard_normal(p.shape), p.dtype), params
    )
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    adapter = adapt(model, tokens, method=method, config=config, targets=targets)
    moved, tokens_BL = perturbed(adapter, params, random)
    first = {**moved, "d": initial.d(adapter, params, moved["frozen"])}
    return adapter, model, first, moved, tokens_BL


def adapted(adapter, model, variables, tokens_BL):
    return initial.adapted_logits(adapter, model, variables, tokens_BL)


def plain(model, params, tokens_BL):
    return initial.logits(model, params, tokens_BL)


def loss(logits_BLV, tokens_BL):
    logp_BLV = jax.nn.log_softmax(logits_BLV[:, :-1])
    return -jnp.mean(jnp.take_along_axis(logp_BLV, tokens_BL[:, 1:, None], axis=2))


def equal(a, b):
    """Whether two trees have the same arrays, bit for bit."""
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and bool(jnp.array_equal(x, y)), a, b)
    return all(jax.tree.leaves(same))


def real_run(method, targets, tiny_llama, records_path, workdir):
    """Four steps, and the last two of them again from the checkpoint before.

    Returns:
        d at step 0, and from the exported adapter of each run.
    """
    config = default(method)
    config.model.path, config.model.dtype = str(tiny_llama), "float32"
    config.data.path, config.data.validation_rows = str(records_path), 8
    config.data.max_prompt, config.data.max_response = 40, 8
    config.method.targets = targets
    config.optim.learning_rate, config.optim.warmup_steps = 3e-2, 1
    config.loop.batch_size = config.evaluate.batch_size = 8
    config.loop.steps, config.loop.eval_every, config.loop.checkpoint_every = 4, 4, 2
    config = parse(config)
    init_workdir(workdir, config)
    run = runs.build(config, workdir)
    train, valid = (
        data.tokenize(part, run.tokenizer, config.data) for part in records.split(config.data)
    )
    found = [run.adapter.init_d(run.params, run.frozen, seed=config.loop.seed)]
    for output in (workdir / "one", workdir / "two"):
        with jax.set_mesh(run.mesh):
            fit(run, workdir, train, valid)
        export.main([f"--workdir={workdir}", "--format=adapter", f"--output={output}"])
        found.append(load_adapter(output, run.params)[1]["d"])
        shutil.rmtree(workdir / "checkpoints" / "4")
        (workdir / "checksums" / "4.json").unlink()
    return found
