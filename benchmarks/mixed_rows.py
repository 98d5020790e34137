r"""Another adapter in every row: a decoding step, and a training step, beside the base's.

    python -m benchmarks.mixed_rows                       # one GPU: decoding, about five minutes
    python -m benchmarks.mixed_rows --train               # and training 64 adapters at once
    python -m benchmarks.mixed_rows --settings 32:64 --cases "tera structured" "lora r=16" --profile
    python -m benchmarks.mixed_rows --tiny --train        # a CPU, seconds: times that mean nothing

Llama-2-7B's shapes, random bfloat16 weights, q and v adapted. A setting is LAYERS:ROWS. Each row
sits in a slot (:mod:`tera_jax.llama.decode.slots`) with an adapter of its own and a cache of
``--slots`` tokens that is half filled, and stays so: every step writes one token to the same place.
Tokens are greedy.

All cases of a setting share weights and cache. They are timed in turn, ``--repeats`` times over,
and the table has the median and the range. "To base" is the base's time over that of the case, of
each repeat by itself. The share of the copy rate is of the weights but for the embeddings, and of
the filled part of the cache, over the time of a step. The copy rate counts what is read and
written.

With ``--quantize`` the base is kept in that kind, also under the cases.

Before the clock starts, mixed rows are compared with each row alone in float32, and the kernels
with the formula.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.mixed import check, training
from benchmarks.mixed.cases import CASES, LLAMA, TINY, Base, adapter_of, draw_rows, log
from benchmarks.profile import profiled, report
from tera_jax.llama.decode import slots
from tera_jax.llama.decode.slots import SlotState
from tera_jax.quantize import KINDS
from train import command

_LIMIT = 2**30
"""New tokens of a row: no row ends."""


class Timing(NamedTuple):
    """Seconds of a step in each repeat, and of its compilation."""

    repeats: list[float]
    compile_seconds: float


class Slot(NamedTuple):
    """A case's compiled step, what it reads beside the state, and what of the state is its own."""

    step: Any
    base: Any
    rows: Any
    compile_seconds: float


def copy_rate(size: int) -> float:
    """Bytes a second that are read and written, the best of three means."""
    x = jnp.zeros(size // 4, jnp.float32)
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x, found = jax.block_until_ready(step(x)), []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(20):
            x = step(x)
        jax.block_until_ready(x)
        found.append((time.perf_counter() - start) / 20)
    return 2 * x.nbytes / min(found)


def pinned(model: Any, adapter: Any, filled: int) -> Callable[..., SlotState]:
    """A step after which the slots are as long as before."""

    def step(base: Any, state: SlotState) -> SlotState:
        found, _ = slots.step(model, adapter, base, state)
        length_B = jnp.full_like(found.cache.length_B, filled)
        return found._replace(cache=found.cache._replace(length_B=length_B))

    return step


def init_state(base: Base, batch: int, size: int) -> SlotState:
    """Half-filled slots of random numbers, without adapters."""
    state = slots.init_slots(base.model, None, None, batch, size)
    draw = jax.jit(lambda key, old: jax.random.normal(key, old.shape, old.dtype), donate_argnums=1)

    def filled(leaves: Any) -> Any:
        return tuple(draw(jax.random.key(n), leaf) for n, leaf in enumerate(leaves))

    cache = state.cache
    cache = cache._replace(
        key=filled(cache.key),
        value=filled(cache.value),
        length_B=jnp.full(batch, size // 2, jnp.int32),
    )
    return state._replace(
        cache=cache,
        token_B=jnp.arange(batch, dtype=jnp.int32) % base.model.config.vocab_size,
        active_B=jnp.ones(batch, bool),
        settings=state.settings._replace(limit=jnp.full(batch, _LIMIT, jnp.int32)),
    )


def compiled(base: Base, case: str, batch: int, size: int, state: SlotState) -> Slot:
    """The step of a case."""
    adapter, frozen, rows = None, {}, None
    if case != "base":
        adapter = adapter_of(case, base.model)
        frozen = base.frozen(adapter)
        rows = draw_rows(adapter, base, frozen, batch)
    variables = {"params": base.params, "frozen": frozen}
    step = jax.jit(pinned(base.model, adapter, size // 2), donate_argnums=1)
    start = time.perf_counter()
    program = step.lower(variables, state._replace(rows=rows)).compile()
    return Slot(program, variables, rows, time.perf_counter() - start)


def run(slot: Slot, state: SlotState, count: int) -> tuple[SlotState, Any]:
    """So many steps; the state without the rows, and the rows."""
    state = state._replace(rows=slot.rows)
    for _ in range(count):
        state = slot.step(slot.base, state)
    return state._replace(rows=None), state.rows


def timed(
    programs: dict[str, Slot], state: SlotState, seconds: float, repeats: int
) -> tuple[dict[str, Timing], SlotState]:
    """The cases in turn, several times over."""
    found: dict[str, list[float]] = {name: [] for name in programs}
    counts: dict[str, int] = {}
    for repeat in range(repeats + 1):  # the first warms up, and says how many steps are a round
        for name, slot in programs.items():
            count = counts.get(name, 3)
            state, rows = run(slot, state, 1)
            slot = programs[name] = slot._replace(rows=rows)
            jax.block_until_ready(state)
            start = time.perf_counter()
            state, rows = run(slot, state, count)
            jax.block_until_ready(state)
            spent = (time.perf_counter() - start) / count
            programs[name] = slot._replace(rows=rows)
            counts[name] = int(min(max(seconds / spent, 3), 400))
            if repeat:
                found[name].append(spent)
    times = {n: Timing(found[n], slot.compile_seconds) for n, slot in programs.items()}
    return times, state


def lines(
    times: dict[str, Timing], layers: int, batch: int, read: int, rate: float
) -> Iterator[str]:
    """Of the table."""
    base = times["base"].repeats
    for name, timing in times.items():
        each = timing.repeats
        ratios = [b / t for b, t in zip(base, each, strict=True)]
        middle, ratio = statistics.median(each), statistics.median(ratios)
        added = statistics.median(t - b for b, t in zip(base, each, strict=True)) / layers
        share = f"{read / middle / rate:.1%}" if name == "base" else ""
        cells = (
            f"{layers}",
            f"{batch}",
            name,
            f"{1e3 * middle:.3f}",
            f"{1e3 * min(each):.3f} to {1e3 * max(each):.3f}",
            f"{batch / middle:,.0f}",
            f"{ratio:.3f}",
            f"{min(ratios):.3f} to {max(ratios):.3f}",
            f"{1e6 * added:.1f}",
            share,
            f"{timing.compile_seconds:.0f}",
        )
        yield "| " + " | ".join(cells) + " |"


HEAD = (
    "| layers | rows | case | ms | range | tokens/s | to base | range | added us a layer "
    "| of the copy rate | compile s |\n"
    "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def measure(base: Base, batch: int, args: argparse.Namespace, rate: float) -> Iterator[str]:
    """The rows of one setting."""
    config = base.model.config
    state = init_state(base, batch, args.slots)
    token = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    token *= state.cache.key[0].itemsize  # bytes of the cache
    read = base.read_bytes + token * batch * (args.slots // 2 + 1)
    programs = {}
    for case in args.cases:
        name = f"{config.num_layers} layers, {batch} rows, {case}"
        try:
            programs[case] = compiled(base, case, batch, args.slots, state)
            log(f"{name}: compiled in {programs[case].compile_seconds:.1f} s")
        except jax.errors.JaxRuntimeError as error:  # the others go on
            log(f"{name}: {str(error)[:400]}")
            if case == "base":
                raise
    times, state = timed(programs, state, args.seconds, args.repeats)
    if args.profile:
        for case, slot in programs.items():
            state, programs[case] = profile(case, slot, state)
    yield from lines(times, config.num_layers, batch, read, rate)
    yield from sizes(base, programs, batch)
    for leaf in jax.tree.leaves((state, [slot.rows for slot in programs.values()])):
        leaf.delete()


def profile(case: str, slot: Slot, state: SlotState) -> tuple[SlotState, Slot]:
    """Print the kernels of a step."""
    found: list[Any] = []

    def once() -> Any:
        found[:] = run(slot, state, 1)
        return found

    print(f"{case}, one step:", *report(profiled(once), 16), sep="\n", flush=True)
    return found[0], slot._replace(rows=found[1])


def sizes(base: Base, programs: dict[str, Slot], batch: int) -> Iterator[str]:
    """Bytes of an adapter, and how many fit beside weights and cache."""
    stats = jax.devices()[0].memory_stats() or {}
    held = sum(leaf.nbytes for slot in programs.values() for leaf in jax.tree.leaves(slot.rows))
    free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0) + held
    for name, slot in programs.items():
        if slot.rows is not None:
            each = sum(leaf.nbytes for leaf in jax.tree.leaves(slot.rows)) / batch
            layers = base.model.config.num_layers
            yield (
                f"{name}: {each / 1e6:.3f} MB an adapter in a slot of {layers} layers; "
                f"{max(free, 0) / each:,.0f} beside weights and cache, in {free / 1e9:.1f} GB"
            )


def main() -> None:
    """Print the tables, line by line."""
    parser = command.parser(main)
    parser.add_argument(
        "--settings", nargs="+", default=["32:64", "32:1", "32:8", "8:256"], help="LAYERS:ROWS"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--slots", type=int, default=512, help="tokens of a slot, half filled")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a case in a repeat")
    parser.add_argument(
        "--budget", type=float, default=460, help="seconds; no setting begins after"
    )
    parser.add_argument("--profile", action="store_true", help="the kernels of a step")
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--train", action="store_true", help="training after decoding")
    parser.add_argument("--only-train", action="store_true", help="no decoding")
    parser.add_argument("--adapters", type=int, default=64, help="in a training step")
    parser.add_argument("--length", type=int, default=128, help="tokens of each in it")
    parser.add_argument("--quantize", choices=["none", *KINDS], default="none", help="the base")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    args = parser.parse_args()
    if args.tiny:
        args.settings, args.slots, args.seconds = ["2:3", "1:4"], 16, 0.0
        args.adapters, args.length = 3, 8
    args.cases = ["base", *(case for case in args.cases if case != "base")]
    settings = [tuple(map(int, text.split(":"))) for text in args.settings]
    device = jax.devices()[0]
    log(f"jax {jax.__version__} on {device.device_kind}")
    start = time.perf_counter()
    if args.check:
        check.rows(args.cases)
        check.kernels(256 if args.tiny else 4096)
    config = TINY if args.tiny else LLAMA
    layers = max(layers for layers, _ in settings)
    rate = copy_rate(2**20 if args.tiny else 2**31)
    log(f"copy: {rate / 1e12:.3f} TB/s read and written")
    config = dataclasses.replace(config, num_layers=layers)
    whole = Base(config, jnp.bfloat16, kind=args.quantize)
    log(f"{layers} layers: {whole.read_bytes / 1e9:.2f} GB of weights that a step reads")
    if not args.only_train:
        print(HEAD, flush=True)
    for layers, batch in [] if args.only_train else settings:
        if time.perf_counter() - start > args.budget:
            log(f"{args.budget:.0f} s are over; {layers}:{batch} is left out")
            continue
        for line in measure(whole.part(layers), batch, args, rate):
            print(line, flush=True)
    if args.train or args.only_train:
        for line in training.table(whole, args.adapters, args.length, args.repeats, args.tiny):
            print(line, flush=True)
    log("done")


if __name__ == "__main__":
    command.run(main)
