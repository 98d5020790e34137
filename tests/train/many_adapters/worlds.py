"""Small runs of many adapters, and the same adapters trained each by itself."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tera_jax
from tests.margins import within
from train import data, many
from train.many_adapters import members, specification
from train.many_adapters.step import make_slot_step
from train.training import optim
from train.training import run as runs
from train.training.loop import to_device
from train.training.run import Run
from train.training.steps.step import State, init_state, make_train_step

ROWS = 2
_WORDS = ["red", "blue", "cat", "dog", "sun", "sea", "one", "two"]


def write_people(place: Path, count: int, **fields: Any) -> Path:
    """A file of adapters, each with records, steps and a rate of its own."""
    place.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        draw = random.Random(number)
        words = [draw.choice(_WORDS) for _ in range(3)]
        rows = [
            {"prompt": f"{draw.choice(_WORDS)}?", "completion": " ".join(words[: 1 + i % 3])}
            for i in range(7 + number % 5)
        ]
        file = place / f"p{number}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"learning_rate": 0.01 + 0.002 * (number % 4), "seed": number, "steps": 6}
        lines.append({"name": f"p{number}", "data": str(file), **given, **fields})
    return write_lines(place / "people.jsonl", lines)


def write_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def arguments(model: Path, adapters: Path, workdir: Path, method: str, *more: str) -> list[str]:
    settings = {"tera": ["--config.method.num_modes=2"], "lora": ["--config.method.rank=4"]}
    return [
        f"--adapters={adapters}",
        f"--model={model}",
        f"--workdir={workdir}",
        f"--config=sft:{method}",
        "--active=3",
        "--config.model.dtype=float32",
        "--config.model.remat=none",
        "--config.data.packed_length=64",
        f"--config.loop.batch_size={ROWS}",
        "--config.optim.warmup_steps=2",
        "--config.optim.clip_norm=0.5",
        "--config.evaluate.batch_size=4",
        *settings.get(method, []),
        *more,
    ]


def base(*given: str) -> dict[str, Any]:
    """The configuration that the command's arguments make."""
    fields = [word for word in given if word.startswith("--config.")]
    named = dict(word[2:].split("=", 1) for word in given if not word.startswith("--config."))
    return many.base_config(named["config"], named["model"], fields)


def alone(run: Run, found: specification.Specification) -> tuple[Any, Any]:
    """The first and the last d of an adapter that is trained by itself, as train.main does it."""
    config = found.config
    adapter = runs.make_adapter(config, run.model)
    own = run._replace(config=config, adapter=adapter)
    member = _member(own, found)
    state, optimizer = runs.init_train_state(own, member.steps)
    first = jax.device_get(state.d)
    loop = config.loop
    stream = data.DataIterator(member.stream.examples, loop.batch_size, loop.seed, config.data)
    given = own.model, own.adapter, optimizer, own.mesh, own.params, state, loop.seed
    step = make_train_step(*given)
    with jax.set_mesh(own.mesh):
        for _ in range(member.steps):
            batch = to_device(next(stream), own)
            state, _ = step(state, own.params, own.frozen, batch)
    return first, jax.device_get(state.d)


def all_alone(run: Run, found: Sequence[specification.Specification]) -> Iterator[tuple[Any, Any]]:
    """As :func:`alone` of each, for a method without dropout.

    Batches are padded to one shape and adapters of one schedule share a program, so that few are
    compiled.
    """
    ready = [_member(run, each) for each in found]
    row = members.common_row(ready)
    init = jax.jit(run.adapter.init_d)
    programs: dict[Any, Any] = {}
    for member in ready:
        config = member.specification.config
        d = _as_computed(run, init(run.params, run.frozen, np.uint32(config.loop.seed)))
        first = jax.device_get(d)
        rule = optim.optimizer(config.optim, member.steps)
        state = init_state(d, rule)
        key = (config.optim, member.steps)
        if key not in programs:
            given = run.model, run.adapter, rule, run.mesh, run.params, state
            programs[key] = make_train_step(*given)
        with jax.set_mesh(run.mesh):
            for _ in range(member.steps):
                batch = to_device(members.padded(next(member.stream), row), run)
                state, _ = programs[key](state, run.params, run.frozen, batch)
        yield first, jax.device_get(state.d)


def together(run: Run, found: Sequence[specification.Specification]) -> list[Any]:
    """The last d of adapters in one run, each in a slot of its own, at constant rates."""
    ready = [_member(run, each) for each in found]
    row, count = members.common_row(ready), len(ready)
    init = jax.jit(run.adapter.init_d)
    seeds = [np.uint32(each.specification.config.loop.seed) for each in ready]
    d = [_as_computed(run, init(run.params, run.frozen, seed)) for seed in seeds]
    d_G = jax.tree.map(lambda *each: jnp.stack(each), *d)
    rule = optim.update_rule(run.config.optim, 0.0)
    state = State(jnp.zeros((), jnp.int32), d_G, jax.vmap(rule.init)(d_G))
    step = make_slot_step(run, count, ROWS)
    given_G = [each.specification.config.optim for each in ready]
    assert all(c.schedule == "constant" and not c.warmup_steps for c in given_G)
    rate_G = np.asarray([c.learning_rate for c in given_G], run.model.dtype)
    with jax.set_mesh(run.mesh):
        for _ in range(ready[0].steps):
            batches = [members.padded(next(each.stream), row) for each in ready]
            batch = to_device(members.joined(batches), run)
            given = run.params, run.frozen, batch, rate_G, np.ones(count, bool)
            state, _ = step(state, *given)
    return [jax.tree.map(lambda leaf, n=n: np.asarray(leaf[n]), state.d) for n in range(count)]


def _member(run: Run, found: specification.Specification) -> members.Member:
    """An adapter of a run with its records."""
    limit = run.model.config.max_position_embeddings
    return members.member(members.read(found, run.tokenizer), run.virtual_tokens, limit)


def _as_computed(run: Run, d: Any) -> Any:
    """In float64 where the model is."""
    wide = run.model.dtype == jnp.float64
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if wide else leaf, d)


def distance(a: Any, b: Any) -> float:
    """The norm of the difference of two trees."""
    parts = jax.tree.map(lambda x, y: np.sum((np.float64(x) - np.float64(y)) ** 2), a, b)
    return float(np.sqrt(sum(jax.tree.leaves(parts))))


def require_alone(
    run: Run,
    found: specification.Specification,
    workdir: Path,
    least: float = 0.1,
    limit: float = 1e-4,
) -> tuple[Any, Any, Any]:
    """The written adapter is what a run of it alone gives, and moved.

    Returns:
        Its variables, the first d, and the last one of the run of it alone.
    """
    first, last = alone(run, found)
    return require_ends(run, found, workdir, first, last, least, limit), first, last


def require_ends(
    run: Run,
    found: specification.Specification,
    workdir: Path,
    first: Any,
    last: Any,
    least: float = 0.1,
    limit: float = 1e-4,
) -> Any:
    """The written adapter is at its last d, within ``limit`` of the way there from its first."""
    _, loaded = tera_jax.load_adapter(workdir / "adapters" / found.name, run.params)
    moved = distance(first, last)
    assert moved > least
    within(distance(loaded["d"], last), limit * moved)
    return loaded


def arrays(workdir: Path) -> dict[str, bytes]:
    return {
        place.name: (place / "adapter.safetensors").read_bytes()
        for place in sorted((workdir / "adapters").iterdir())
    }
