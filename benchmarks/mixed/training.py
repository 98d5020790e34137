"""Training many adapters in one step, beside the frozen base's: time and planned memory."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks.mixed.cases import Base, adapter_of, log
from tera_jax.adapters.bank import stack
from tera_jax.adapters.interceptor import calls
from tera_jax.adapters.stack import at_axes
from tera_jax.llama import Llama, stacking

CASES = ("base", "tera structured", "tera dense")
_STEPS = 3
"""Of a repeat."""


class Program(NamedTuple):
    """A compiled step, its state, what else it reads, and the bytes that it plans."""

    step: Any
    state: Any
    given: Any
    peak_bytes: int
    compile_seconds: float


def nll(model: Llama, params: Any, hidden_BLD: jax.Array, tokens_BL: jax.Array) -> jax.Array:
    """Summed over all tokens but each row's first."""
    logits_BLV: Any = model.apply({"params": params}, hidden_BLD[:, :-1], method="logits")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, tokens_BL[:, 1:])
    return jnp.sum(losses)


def biased(model: Llama, params: Any, bias_D: jax.Array, tokens_BL: jax.Array) -> Any:
    """The frozen base, whose one trained array is added to the embeddings."""

    def body(module: Any, embed: Callable[..., Any], tokens: Any) -> Any:
        del module
        y = embed(tokens)
        return y + bias_D.astype(y.dtype)[None, None]

    with nn.intercept_methods(calls(lambda module: isinstance(module, nn.Embed), body)):
        return model.apply({"params": params}, tokens_BL, method="hidden")[0]


def build(base: Base, case: str, adapters: int, length: int) -> tuple[Any, Any, Any]:
    """The step of a case, its shapes of the state, and what else it reads.

    Each row of the batch is one adapter's.
    """
    model = base.model.clone(remat="dots")
    optimizer = optax.adamw(1e-3)
    shape, vocabulary = (adapters, length), model.config.vocab_size
    tokens_BL = jax.random.randint(jax.random.key(0), shape, 0, vocabulary, jnp.int32)
    frozen: Any = {}
    if case == "base":
        trained: Any = jnp.zeros(model.config.hidden_size, jnp.float32)
    else:
        adapter = adapter_of(case, base.model)
        frozen = base.frozen(adapter)
        shapes = adapter.abstract_d(base.abstract())
        trained = stack(adapter, [jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)])
        trained = at_axes(adapter.layers, lambda at, x: jnp.repeat(x, adapters, at), trained)

    def loss(trained: Any, params: Any, frozen: Any, tokens_BL: Any) -> jax.Array:
        params = stacking.stacked(params)
        if case == "base":
            hidden_BLD = biased(model, params, trained, tokens_BL)
        else:
            variables = {"params": params, "frozen": frozen, "d": trained}
            rows = jnp.arange(adapters, dtype=jnp.int32)
            hidden_BLD, _ = adapter.apply(model, variables, tokens_BL, rows=rows, method="hidden")
        return nll(model, params, hidden_BLD, tokens_BL) / tokens_BL.size

    def step(state: Any, *given: Any) -> Any:
        trained, opt = state
        value, grads = jax.value_and_grad(loss)(trained, *given)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt = optimizer.update(grads, opt, trained)
        return (optax.apply_updates(trained, updates), opt), value

    return step, (trained, optimizer.init(trained)), (base.params, frozen, tokens_BL)


def program(base: Base, case: str, adapters: int, length: int) -> Program:
    """:func:`build`, compiled."""
    step, state, given = build(base, case, adapters, length)
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, *given).compile()
    seconds = time.perf_counter() - start
    plan: Any = compiled.memory_analysis()
    peak = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes
    return Program(compiled, state, given, peak - plan.alias_size_in_bytes, seconds)


def table(base: Base, adapters: int, length: int, repeats: int, tiny: bool) -> Iterator[str]:
    """Markdown, and a line for each compilation."""
    programs = {}
    for case in CASES:
        programs[case] = program(base, case, adapters, length)
        found = programs[case]
        log(f"training, {case}: compiled in {found.compile_seconds:.1f} s")
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    losses: dict[str, float] = {}
    for repeat in range(repeats + 1):
        for case, each in programs.items():
            state = each.state
            start = time.perf_counter()
            for _ in range(1 if tiny or not repeat else _STEPS):
                state, loss = each.step(state, *each.given)
            jax.block_until_ready(state)
            spent = (time.perf_counter() - start) / (1 if tiny or not repeat else _STEPS)
            programs[case] = each._replace(state=state)
            losses[case] = float(loss)
            if repeat:
                seconds[case].append(spent)
    yield "| training | adapters | tokens each | ms | range | to base | range | GB more | loss |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for case, spent_seconds in seconds.items():
        ratios = [t / b for t, b in zip(spent_seconds, seconds["base"], strict=True)]
        more = programs[case].peak_bytes - programs["base"].peak_bytes
        cells = (
            case,
            f"{adapters}",
            f"{length}",
            f"{1e3 * statistics.median(spent_seconds):.1f}",
            f"{1e3 * min(spent_seconds):.1f} to {1e3 * max(spent_seconds):.1f}",
            f"{statistics.median(ratios):.3f}",
            f"{min(ratios):.3f} to {max(ratios):.3f}",
            f"{more / 1e9:.2f}",
            f"{losses[case]:.3f}",
        )
        yield "| " + " | ".join(cells) + " |"
