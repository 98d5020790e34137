"""From a configuration to a trained run: load, measure, train, measure, export."""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from tera_jax.llama import Llama, load_config, load_tokenizer

from . import data, evaluate, export
from .config import Config
from .data import records
from .evaluation import answers, comparison
from .evaluation.measure import Score
from .training import callbacks as told
from .training import distributed, lock, loggers, possible, start, stops
from .training import run as runs
from .training.data_identity import keep_data_identity, require_same_data
from .training.loop import fit
from .training.run import Run
from .training.workdir import init_workdir, require_workdir


class Trained(NamedTuple):
    """A run at its end.

    Attributes:
        run: the base and the adapter.
        step: the best one.
        d: of that step.
        before: what was measured with the untrained d.
        after: what was measured with this one.
    """

    run: Run
    step: int
    d: Any
    before: dict[str, Score]
    after: dict[str, Score]


def train(config: Config, workdir: Path, callbacks: Sequence[Any] = ()) -> Trained:
    """Train in a directory, or go on with the run that is there.

    Args:
        config: of the run.
        workdir: of the run, which no other process may hold.
        callbacks: see :mod:`train.training.callbacks`.

    Raises:
        Stopped: as :func:`train.training.loop.fit`; when the disk is full.
        FileExistsError: when the directory holds something else, or another process uses it.
        FileNotFoundError: for a model, records or another file that is not there.
        ValueError: for whatever does not fit, before the base is loaded where that is possible.
    """
    export.require_possible(config)
    loggers.require(config.loop.loggers)
    told.require(callbacks)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stops.disk_full(workdir))
        distributed.on_main_process(lambda: require_workdir(workdir, config))
        distributed.on_main_process(lambda: stack.enter_context(lock.held(workdir)))
        return _train(config, workdir, callbacks)


def _train(config: Config, workdir: Path, callbacks: Sequence[Any]) -> Trained:
    """The run in a directory that this process holds."""
    tests = evaluate.load_tests(config.evaluate, config.data)
    answers.require(tests, config.evaluate)
    sources = records.sources(config.data)
    identities, counts = records.identities(sources, config.data), records.counts(sources)
    distributed.require_same(identities)
    distributed.on_main_process(lambda: require_same_data(workdir, identities))
    tokenizer = load_tokenizer(config.model.path)
    model = Llama(load_config(config.model.path))
    export.require_base(config.export, config, model.config, tokenizer)
    prepared = data.prepare(config.data, tokenizer, sources, workdir)
    del sources
    distributed.log("\n".join(prepared.lines))
    adapter = runs.make_adapter(config, model)
    export.require_layers(config.export, model.config, adapter)
    virtual = adapter.num_virtual_tokens
    for part in (prepared.train, prepared.held_out):
        data.require_context(part, config.data, model.config.max_position_embeddings, virtual)
    possible.require_fit(config, model, adapter, prepared.train)

    run = start.with_start(runs.build(config, workdir, tokenizer, identities))
    distributed.on_main_process(lambda: init_workdir(workdir, config))
    distributed.on_main_process(lambda: keep_data_identity(workdir, identities, counts))
    runs.keep_frozen(run, workdir)
    distributed.log(runs.describe(run))
    train = prepared.train.after(run.virtual_tokens)
    valid = prepared.held_out.after(run.virtual_tokens)
    measure = functools.partial(
        evaluate.measure, valid=valid, tests=tests, earlier=workdir / "earlier"
    )
    with jax.set_mesh(run.mesh):
        # No name is kept for the untrained d: it can be as large as the base.
        before = measure(run, 0, runs.first_d(run), workdir / "before")
        run = runs.unrolled(run)
        fit(run, workdir, train, valid, callbacks)
        run = runs.rolled(run)
        step, d = runs.restore_best(run, workdir)
        after = measure(run, step, d, workdir / "evaluation")
    distributed.log(evaluate.table({"before": before, f"after (step {step})": after}))
    for task in tests:
        places = (workdir / "before" / task, workdir / "evaluation" / task)
        distributed.on_main_process(functools.partial(_compare, *places))
    for kind in config.export:
        path = export.export_once(run, d, kind, workdir, step)
        print(f"{kind:<12}{path} ({export.size(path)})")
    distributed.log(f"{'checkpoints':<12}{workdir / 'checkpoints'}")
    return Trained(run, step, d, before, after)


def _compare(before: Path, after: Path) -> None:
    file = comparison.write(before, after)
    if file is not None:
        print(f"{'compared':<12}{file}")
