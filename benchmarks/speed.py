r"""A training step beside PyTorch PEFT's on one GPU: tokens a second, memory, time to compile.

    python -m benchmarks.speed --model=llama-2-7b --rows=32 --length=256 --anchors
    python -m benchmarks.speed --model=llama-2-7b --layers=8 --sweep=tokens
    python -m benchmarks.speed --model=tiny --rows=4 --length=64        # make bench

Shapes are those of ``--model``, weights and tokens random, the loss on every token. All settings
run one after another in one process: the anchors of benchmarks/anchors.py first, then the rate of
a large matrix product, then our own steps, each compiled, checked and timed.

"frozen" is the base whose only gradient is that of one bias of the embedding: what any method pays
at least. Model FLOPs are 4 a parameter and token, forward and backward through frozen weights.
Memory is what the compiled step plans: arguments, temporaries and results.

Sweeps: ``tokens`` from 512 to 32,768 a step, TeRA by either route and by the one it chooses;
``order`` of the network from 2 to 24; ``targets`` from q and v to all linear layers; ``methods``.
"""

import argparse
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs.commonsense import get_config
from tera_jax import adapt, contraction, sharding
from tera_jax.adapter import Adapter
from tera_jax.llama import Llama
from tera_jax.llama.config import LlamaConfig
from tera_jax.methods import METHODS
from train.config import parse
from train.data import Batch
from train.shapes import MODELS
from train.step import init_state, make_train_step

TINY = MODELS["llama-2-7b"] | {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
QV = ("q_proj", "v_proj")
ALL = (*QV, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FROZEN = "frozen"


class Case(NamedTuple):
    """A setting of our own."""

    method: str
    rows: int
    length: int
    remat: str = "dots"
    targets: tuple[str, ...] = QV
    fields: tuple[tuple[str, Any], ...] = ()
    route: str = ""  # of TeRA: build, through, or by its own choice
    ahead: bool = False  # kernels built before the layers

    @property
    def name(self) -> str:
        """The words of a row."""
        words = [self.method, *(f"{value}" for _, value in self.fields), self.route]
        words += ["ahead" * self.ahead, "" if self.remat == "dots" else f"remat {self.remat}"]
        if self.targets != QV:
            words.append("all linear" if self.targets == ALL else "+".join(self.targets))
        return " ".join(word for word in words if word)


class Found(NamedTuple):
    """What was measured. ``note`` says why there are no numbers."""

    name: str
    tokens: int
    tokens_per_second: float = math.nan
    step_seconds: float = math.nan
    peak_bytes: int = 0
    compile_seconds: float = math.nan
    first_loss: float = math.nan
    last_loss: float = math.nan
    trained: int = 0
    note: str = ""


class _Bias(Adapter):
    """Trains a bias of the token embeddings, and nothing else."""

    def init_d(self, params: Any, frozen: Any, seed: Any = 0) -> dict[str, Any]:
        del frozen, seed
        return {"bias": jnp.zeros(params["embed_tokens"]["embedding"].shape[1], jnp.float32)}

    def apply(self, model: nn.Module, variables: Any, *args: Any, built: Any = None, **kwargs: Any):
        del built
        bias_D = variables["d"]["bias"]

        def interceptor(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
            y = next_fun(*args, **kwargs)
            if isinstance(context.module, nn.Embed) and context.method_name == "__call__":
                y = y + bias_D.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
            return y

        with nn.intercept_methods(interceptor):
            return model.apply({"params": variables["params"]}, *args, **kwargs)

    def merge(self, variables: Any) -> Any:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class _Ahead(Adapter):
    """An adapter whose kernels are built before the layers, once a step."""

    inner: Any = None

    def init_frozen(self, params: Any) -> dict[str, Any]:
        return self.inner.init_frozen(params)

    def init_d(self, params: Any, frozen: Any, seed: Any = 0) -> dict[str, Any]:
        return self.inner.init_d(params, frozen, seed)

    def apply(self, model: nn.Module, variables: Any, *args: Any, built: Any = None, **kwargs: Any):
        if kwargs.get("method") == "hidden":
            built = self.inner.build(variables, args[0].size)
        return self.inner.apply(model, variables, *args, built=built, **kwargs)

    def merge(self, variables: Any) -> Any:
        return self.inner.merge(variables)


def make_adapter(case: Case, model: Llama) -> Adapter:
    """The adapter of a case; ranks are those of the recipes, 32 for LoRA and HiRA."""
    if case.method == FROZEN:
        return _Bias("prompt", None, ())
    config = get_config(case.method)
    config.model.path = config.data.path = "-"
    for key, value in case.fields:
        config.method[key] = value
    settings = parse(config).method.settings
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    adapter = adapt(model, tokens, method=case.method, config=settings, targets=case.targets)
    return _Ahead(adapter.name, adapter.config, adapter.sites, adapter) if case.ahead else adapter


def random_batch(rows: int, length: int, vocab_size: int) -> Batch:
    """Random tokens, the loss on all but the first."""
    tokens_BL = np.random.default_rng(0).integers(vocab_size, size=(rows, length), dtype=np.int32)
    index_BT = np.broadcast_to(np.arange(length - 1, dtype=np.int32), (rows, length - 1))
    return Batch(tokens_BL, index_BT, tokens_BL[:, 1:], np.ones(index_BT.shape, np.float32))


class Bench:
    """One base, on one device, and the steps that are measured on it."""

    def __init__(self, shape: dict[str, Any], dtype: Any, steps: int, unroll: int) -> None:
        self.config = LlamaConfig.from_hf(shape)
        self._dtype, self._steps, self._unroll = dtype, steps, unroll
        self._mesh = sharding.make_mesh(1, 1, 1)
        model, tokens_BL = self._model("none"), jnp.zeros((1, 2), jnp.int32)
        self._params = jax.jit(lambda: model.init(jax.random.key(0), tokens_BL)["params"])()
        self.size = sum(leaf.size for leaf in jax.tree.leaves(self._params))

    def _model(self, remat: str) -> Llama:
        return Llama(self.config, dtype=self._dtype, remat=remat, unroll=self._unroll)

    def measure(self, case: Case) -> Found:
        """Compile, check and time one case; a step that does not fit is a note.

        Raises:
            FloatingPointError: for a loss that is not finite.
        """
        routes = {"build": True, "through": False}
        choice = routes.get(case.route)
        tokens = case.rows * case.length
        with jax.set_mesh(self._mesh):
            try:
                if choice is None:
                    return self._measure(case)
                with mock.patch.object(contraction, "building_is_cheaper", return_value=choice):
                    return self._measure(case)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                return Found(case.name, tokens, note="out of memory")

    def _measure(self, case: Case) -> Found:
        model, tokens = self._model(case.remat), case.rows * case.length
        adapter = make_adapter(case, model)
        optimizer = optax.adamw(1e-3)
        frozen = jax.jit(adapter.init_frozen)(self._params)
        init = jax.jit(lambda p, f: init_state(adapter.init_d(p, f), optimizer))
        state = init(self._params, frozen)
        trained = sum(leaf.size for leaf in jax.tree.leaves(state.d))
        batch = jax.device_put(random_batch(case.rows, case.length, self.config.vocab_size))
        step: Any = make_train_step(model, adapter, optimizer, self._mesh, self._params, state)
        start = time.perf_counter()
        compiled = step.lower(state, self._params, frozen, batch).compile()
        compile_seconds = time.perf_counter() - start
        plan = compiled.memory_analysis()
        peak = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes
        losses, times = [], []
        for _ in range(self._steps + 2):
            start = time.perf_counter()
            state, metrics = compiled(state, self._params, frozen, batch)
            losses.append(float(metrics.loss))
            times.append(time.perf_counter() - start)
        if not np.isfinite(losses).all():
            raise FloatingPointError(f"{case.name}: losses {losses}")
        seconds = statistics.median(times[2:])
        return Found(
            name=case.name,
            tokens=tokens,
            tokens_per_second=tokens / seconds,
            step_seconds=seconds,
            peak_bytes=peak - plan.alias_size_in_bytes,
            compile_seconds=compile_seconds,
            first_loss=losses[0],
            last_loss=losses[-1],
            trained=trained,
        )


def matmul_rate(size: int, dtype: Any, repeats: int = 20) -> float:
    """FLOP/s of a square matrix product, the best of three means."""
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    b = product(a, a).block_until_ready()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            out = product(a, b)
        out.block_until_ready()
        times.append((time.perf_counter() - start) / repeats)
    return 2 * size**3 / min(times)


def check(found: list[Found]) -> None:
    """Raise ValueError unless every step starts at the loss of the frozen base, and goes down.

    A prompt changes the model at once, and LoRETTA does.
    """
    base = {row.tokens: row.first_loss for row in found if row.name.startswith(FROZEN)}
    for row in found:
        if row.note or row.name.split()[0] in ("prompt", "p_tuning", "loretta"):
            continue
        expected = base.get(row.tokens, row.first_loss)
        if not math.isclose(row.first_loss, expected, rel_tol=2e-3):
            raise ValueError(f"{row}: starts at {row.first_loss}, the frozen base at {expected}")
        if not row.last_loss < row.first_loss:
            raise ValueError(f"{row}: the loss has not fallen")


def sweep(name: str, rows: int, length: int, hidden: int, remat: str) -> Iterator[Case]:
    """The cases of a sweep."""
    case = Case("tera", rows, length, remat)
    if name == "tokens":
        for tokens in (512, 1024, 2048, 4096, 8192, 16384, 32768):
            at = case._replace(rows=max(1, tokens // length), length=min(tokens, length))
            yield at._replace(method=FROZEN)
            yield from (at._replace(route=route) for route in ("build", "through", ""))
    elif name == "order":
        yield case._replace(method=FROZEN)
        for scheme in schemes(hidden):
            yield case._replace(fields=(("tensorizations", (scheme,)),))
    elif name == "targets":
        for targets in (QV, ("q_proj", "k_proj", "v_proj", "o_proj"), ALL):
            yield from (
                case._replace(method=method, targets=targets) for method in (FROZEN, "lora", "tera")
            )
    elif name == "methods":
        yield case._replace(method=FROZEN)
        for method in METHODS:
            # A published default that asks for axes of its own model's size.
            fields = (("axes", axes(hidden)),) if method == "quanta" else ()
            yield case._replace(method=method, fields=fields)


def schemes(hidden: int) -> list[str]:
    """Networks of a square kernel, of order 2, 3, ... to twice the number of factors of two."""
    power = hidden.bit_length() - 1
    if hidden != 2**power:
        raise ValueError(f"a sweep of the order needs a power of two, not {hidden}")
    split = {parts: [2 ** len(each) for each in np.array_split(range(power), parts)]
             for parts in (1, 2, 3, 4, 6, 12) if parts <= power}  # fmt: skip
    sides = {parts: "x".join(map(str, modes)) for parts, modes in split.items()}
    one_side = [f"{hidden}|{side}" for side in sides.values()]
    return [*one_side, f"{sides[max(sides)]}|{sides[max(sides)]}"]


def axes(hidden: int) -> tuple[int, ...]:
    """Three factors as equal as can be, for QuanTA."""
    near = lambda n: max(f for f in range(1, math.isqrt(n) + 1) if n % f == 0)  # noqa: E731
    first = max(f for f in range(1, round(hidden ** (1 / 3)) + 1) if hidden % f == 0)
    second = near(hidden // first)
    return (first, second, hidden // first // second)


def table(found: list[Found], size: int, rate: float) -> Iterator[str]:
    """Markdown, with each row's ratio to the frozen base and to compiled PEFT LoRA."""
    head = ["setting", "tokens", "tokens/s", "to frozen", "to PEFT LoRA", "ms", "model TFLOP/s"]
    head += ["of the product's rate", "peak GiB", "compile s", "trained"]
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    base = {row.tokens: row.step_seconds for row in found if row.name == FROZEN}
    peft = {row.tokens: row.step_seconds for row in found if row.name.startswith("PEFT lora comp")}
    for row in found:
        if row.note:
            yield f"| {row.name} | {row.tokens} | {row.note} |" + " |" * (len(head) - 3)
            continue
        flops = 4 * size * row.tokens_per_second
        to_base = row.step_seconds / base.get(row.tokens, math.nan)
        to_peft = peft.get(row.tokens, math.nan) / row.step_seconds
        cells = (
            row.name,
            f"{row.tokens:,}",
            f"{row.tokens_per_second:,.0f}",
            f"{to_base:.3f}" if math.isfinite(to_base) else "",
            f"{to_peft:.3f}" if math.isfinite(to_peft) else "",
            f"{row.step_seconds * 1e3:.1f}",
            f"{flops / 1e12:.1f}",
            f"{flops / rate:.1%}",
            f"{row.peak_bytes / 2**30:.2f}",
            f"{row.compile_seconds:.1f}",
            f"{row.trained:,}",
        )
        yield "| " + " | ".join(cells) + " |"


def run_anchors(shape: dict[str, Any], rows: int, length: int, steps: int) -> Iterator[Found]:
    """LoRA, VeRA and HiRA of PEFT, compiled, and LoRA eager."""
    from benchmarks import anchors  # before JAX takes memory, and only where torch is installed

    config = anchors.llama(
        shape["hidden_size"],
        shape["intermediate_size"],
        shape["num_hidden_layers"],
        shape["num_attention_heads"],
        shape["num_key_value_heads"],
        shape["hidden_size"] // shape["num_attention_heads"],
        shape["vocab_size"],
        rms_norm_eps=shape["rms_norm_eps"],
    )
    batch = anchors.random_batch(config, rows, length)
    for adapter, compiled in (("lora", True), ("lora", False), ("vera", True), ("hira", True)):
        setting = anchors.Setting(adapter, compiled, attention="causal")
        row = anchors.measure(config, [batch], setting, steps=steps)
        anchors.check(row)
        yield Found(
            name=f"PEFT {adapter} {'compiled' if compiled else 'eager'}",
            tokens=rows * length,
            tokens_per_second=row.tokens_per_second,
            step_seconds=row.step_seconds,
            peak_bytes=row.peak_bytes,
            compile_seconds=row.first_seconds,
            first_loss=row.first_loss,
            last_loss=row.last_loss,
            trained=row.trained,
            note=row.note,
        )


def main() -> None:
    """Measure, print, check."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=[*MODELS, "tiny"], default="llama-2-7b")
    parser.add_argument("--layers", type=int, help="so many layers only")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--remat", choices=["none", "dots", "full"], default="dots")
    parser.add_argument("--unroll", type=int, default=1, help="layers of one turn of the scan")
    parser.add_argument("--cases", nargs="+", help="such as frozen lora tera tera:ahead")
    parser.add_argument("--sweep", choices=["tokens", "order", "targets", "methods"])
    parser.add_argument("--anchors", action="store_true", help="PEFT as well; asks for torch")
    parser.add_argument("--output", type=Path, help="JSON lines, one a row")
    args = parser.parse_args()

    shape = TINY if args.model == "tiny" else dict(MODELS[args.model])
    shape["num_hidden_layers"] = args.layers or shape["num_hidden_layers"]
    found: list[Found] = []

    def keep(row: Found) -> None:
        found.append(row)
        print(row, flush=True)
        if args.output:
            with args.output.open("a") as file:
                file.write(json.dumps(row._asdict()) + "\n")

    if args.anchors:
        for row in run_anchors(shape, args.rows, args.length, args.steps):
            keep(row)
    on_gpu = jax.default_backend() == "gpu"
    dtype = jnp.bfloat16 if on_gpu else jnp.float32
    rate = matmul_rate(8192 if on_gpu else 512, dtype)
    print(f"matrix product: {rate / 1e12:.2f} TFLOP/s", flush=True)
    bench = Bench(shape, dtype, args.steps, args.unroll)
    cases: Callable[[], Iterator[Case]] = lambda: _named(args.cases, args)  # noqa: E731
    if args.sweep:
        hidden = bench.config.hidden_size
        cases = lambda: sweep(args.sweep, args.rows, args.length, hidden, args.remat)  # noqa: E731
    for case in cases():
        keep(bench.measure(case))
    print(*table(found, bench.size, rate), sep="\n")
    check([row for row in found if not row.name.startswith("PEFT")])


def _named(names: list[str] | None, args: Any) -> Iterator[Case]:
    """``tera:ahead`` or ``tera:build:full``: a method, then options."""
    for name in names or (FROZEN, "lora", "vera", "hira", "tera"):
        method, *options = name.split(":")
        case = Case(method, args.rows, args.length, args.remat)
        for option in options:
            if option == "ahead":
                case = case._replace(ahead=True)
            elif option in ("none", "dots", "full"):
                case = case._replace(remat=option)
            elif option in ("build", "through"):
                case = case._replace(route=option)
            else:
                raise SystemExit(f"{name}: {option!r} is no option; ahead, build, through or remat")
        yield case


if __name__ == "__main__":
    main()
