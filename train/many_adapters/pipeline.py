"""From a list of adapters to a trained run: check, read, load, train."""

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import jax

from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import adapter_class
from tera_jax.llama import Llama, load_config, load_tokenizer
from tera_jax.methods import TABLE

from ..config import Config, parse
from ..config.alone import require_defaults
from ..training import distributed, lock, stops
from ..training import run as runs
from ..training.data_identity import keep_data_identity, require_same_data
from . import directory, members, results, specification
from .loop import fit
from .progress import Progress
from .specification import Specification


def train(base: dict[str, Any], adapters: Path, workdir: Path, active: int) -> list[Progress]:
    """Train the adapters in a directory, or go on with the run that is there.

    Args:
        base: the configuration that all inherit, as plain values.
        adapters: what :func:`train.many_adapters.specification.read` takes.
        workdir: of the run, which no other process may hold.
        active: adapters in one step; no more than there are.

    Returns:
        Where each adapter stands: ``finished``, or ``failed``.

    Raises:
        Stopped: on a signal and when the hours are over, after a checkpoint; when the disk is full.
        FileExistsError: when the directory holds something else, or another process uses it.
        FileNotFoundError: for a model or records that are not there.
        ValueError: for whatever does not fit, before the base is loaded where that is possible.
    """
    if active < 1:
        raise ValueError(f"--active is {active}; it must be at least 1")
    _require_alone(base)
    found = specification.read(adapters, base)
    config = parse({**base, "data": {**base["data"], "path": str(adapters)}})
    _require_possible(config)
    active = min(active, len(found))
    content = directory.content(config, specification.as_saved(found), active)
    with stops.disk_full(workdir):
        directory.require(workdir, content)
        with lock.held(workdir):
            return _train(config, found, workdir, content)


def _train(
    config: Config, found: Sequence[Specification], workdir: Path, content: dict[str, Any]
) -> list[Progress]:
    """The run in a directory that this process holds."""
    tokenizer = load_tokenizer(config.model.path)
    read = [members.read(each, tokenizer) for each in found]
    identities, counts = (
        {name: value for each in read for name, value in each.named(of(each)).items()}
        for of in (attrgetter("identities"), attrgetter("counts"))
    )
    require_same_data(workdir, identities)
    for each in read:
        train_, held_out = each.prepared.train, each.prepared.held_out
        said = f"{len(train_):,} training and {len(held_out):,} held-out records"
        distributed.log(f"{each.specification.name}: {said}")

    sizes = load_config(config.model.path)
    virtual = runs.make_adapter(config, Llama(sizes)).virtual_tokens(sizes.vocab_size)
    ready = [members.member(each, virtual, sizes.max_position_embeddings) for each in read]

    run = runs.build(config, workdir, tokenizer, identities)
    directory.write(workdir, content)
    keep_data_identity(workdir, identities, counts)
    runs.keep_frozen(run, workdir)
    distributed.log(runs.describe(run))
    distributed.log(
        f"{len(ready)} adapters, {content['active']} in a step with {config.loop.batch_size} rows "
        f"each, {sum(each.steps for each in ready):,} steps of theirs in all"
    )
    with jax.set_mesh(run.mesh):
        progress = fit(run, workdir, ready, content["active"])
    distributed.log(results.table(progress))
    distributed.log(f"{'results':<12}{workdir / results.FILE}")
    return progress


def _require_alone(base: dict[str, Any]) -> None:
    """Raise ``ValueError`` for settings of one run, and for several processes."""
    if distributed.launched() or jax.process_count() > 1:
        raise ValueError(
            "train.many runs in one process; start it without a launcher, with --config.mesh over "
            "the devices of one host"
        )
    if base["data"]["path"] is not None:
        raise ValueError(
            f"config.data.path is {base['data']['path']!r}, but each adapter has data of its own; "
            "leave it out"
        )


def _require_possible(config: Config) -> None:
    """Raise ``ValueError`` for what many adapters in one run do not have."""
    require_defaults(config, "train.many")
    adapter: type[Adapter] = adapter_class(TABLE[config.method.name])
    if adapter.trains_all:
        raise ValueError(
            f"method {config.method.name!r} trains a copy of every parameter, so that each adapter "
            "would have a base of its own; choose another method, or train.main"
        )
    if config.loop.grad_accum_steps > 1:
        raise ValueError(
            f"config.loop.grad_accum_steps is {config.loop.grad_accum_steps}, which many adapters "
            "do not have; lower --active for less memory"
        )
    if config.export:
        raise ValueError(
            f"config.export is {config.export}, but every adapter is written as 'adapter'; leave "
            "it out"
        )
    if config.evaluate.path is not None:
        raise ValueError(
            f"config.evaluate.path is {config.evaluate.path!r}, but train.many generates no "
            "answers; leave it out, and ask each adapter afterwards"
        )
