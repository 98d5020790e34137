"""Whether mixed rows are what each row alone gives, before benchmarks/mixed_rows.py takes time."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.mixed.cases import TINY, Base, adapter_of, log
from tera_jax.adapters.bank import make_bank
from tera_jax.methods import tera
from tera_jax.methods.tera import TeRA
from tera_jax.network import rows as network_rows
from tera_jax.network.tensorization import Tensorization
from tera_jax.ops import dispatch, low_rank_rows
from tera_jax.random import seed_key

_ENTRIES = (3, 1, 0, 2)
"""Of the bank, those of the rows that are checked."""
_ROUNDED = 2e-2
"""The most that a kernel's result in bfloat16 may be off, as a part of its norm."""


def rows(cases: Sequence[str]) -> None:
    """Mixed rows beside each row alone, in float32 on a small model.

    Raises:
        ValueError: where they differ, or a row does not differ from another adapter's.
    """
    base = Base(dataclasses.replace(TINY, num_layers=2), jnp.float32)
    tokens_BL = jnp.arange(12, dtype=jnp.int32).reshape(4, 3)
    params = base.stacked()
    for case in cases:
        if case == "base":
            continue
        adapter = adapter_of(case, base.model)
        frozen = base.frozen(adapter)

        @jax.jit
        def both(frozen: Any, adapter: Any = adapter) -> Any:
            first = adapter.init_d(params, frozen)
            d = [moved(first, n) for n in range(3)]
            bank = make_bank(adapter, params, frozen, d)
            each = bank.gather(jnp.asarray(_ENTRIES))
            variables = {"params": params, "frozen": frozen}
            mixed, _ = adapter.apply_rows(base.model, {**variables, "d": each}, tokens_BL)
            alone = [adapter.base_d(params, frozen), *d]
            merged = [adapter.merge({**variables, "d": one}) for one in alone]
            return mixed, [base.model.apply({"params": params}, tokens_BL)[0] for params in merged]

        with jax.default_matmul_precision("highest"):
            mixed, alone = both(frozen)
        right = jnp.stack([alone[entry][row] for row, entry in enumerate(_ENTRIES)])
        wrong = jnp.stack([alone[entry][row] for row, entry in enumerate(_ENTRIES[::-1])])
        found, other = (float(jnp.max(abs(mixed - x)) / jnp.max(abs(x))) for x in (right, wrong))
        log(
            f"{case}: mixed rows beside each alone by merged weights {found:.1e}; other {other:.1e}"
        )
        if not found < 2e-5 < 1e-2 < other:
            raise ValueError(
                f"{case}: mixed rows differ by {found}, from other adapters by {other}"
            )


def moved(d: Any, seed: int) -> Any:
    """Another adapter than that of step 0."""
    key = jax.random.key(seed)
    return jax.tree.map(lambda v: v + 0.3 * jax.random.normal(key, v.shape, v.dtype), d)


def kernels(width: int) -> None:
    """The kernels of mixed rows in bfloat16, beside the formula in float32.

    Raises:
        ValueError: where they differ by more than bfloat16 rounds.
    """
    batch, layers, key = 32, 2, jax.random.key(0)
    side = round(width**0.5)
    scheme = Tensorization.parse("4096|8x8x8x8" if width == 4096 else f"{width}|{side}x{side}")
    frozen = tera.init_frozen(seed_key(0, "rows"), scheme, TeRA(structure="hadamard"))

    def normal(n: int, *shape: int) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, n), shape, jnp.float32)

    x_BTJ = normal(0, batch, 1, width)
    sizes = (width, side, side)
    rows_ = [[1 + 0.3 * normal(3 * n + i, batch, s) for i, s in enumerate(sizes)] for n in (1, 2)]
    rank = 16
    factors = [
        (normal(10 + n, batch, width, rank) / width**0.5, normal(20 + n, batch, rank, width))
        for n in range(layers)
    ]

    def network(x_BTJ: Any, frozen: Any, rows_: Any) -> Any:
        return network_rows.through(x_BTJ, frozen["core"], frozen["factors"], rows_, 1)

    def low_rank(x_BTJ: Any, factors: Any) -> Any:
        return low_rank_rows.through(x_BTJ[:, 0], factors, 1.0, dispatch.interpret())

    def formula(x_BTJ: Any, factors: Any) -> Any:
        return low_rank_rows.by_xla(x_BTJ[:, 0], factors, 1.0)

    for name, kernel, exact, given in (
        ("structured TeRA", network, network, (x_BTJ, frozen, rows_)),
        ("LoRA", low_rank, formula, (x_BTJ, factors)),
    ):
        if name == "LoRA" and not low_rank_rows.fits(width, width, rank):
            continue
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), given)
        with dispatch.forced(False), jax.default_matmul_precision("highest"):
            expected = jax.jit(exact)(*given)
        with dispatch.forced(True):
            found = jax.jit(kernel)(*half)
        pairs = zip(found, expected, strict=True)
        error = max(
            float(jnp.linalg.norm(a.astype(b.dtype) - b) / jnp.linalg.norm(b)) for a, b in pairs
        )
        log(f"{name}: the kernel in bfloat16 beside float32 {error:.1e}")
        if not error < _ROUNDED:
            raise ValueError(f"{name}: the kernel is off by {error} of the norm")


def _relative(found: jax.Array, expected: jax.Array) -> float:
    """The norm of the difference as a part of what is expected."""
    difference = found.astype(expected.dtype) - expected
    return float(jnp.linalg.norm(difference) / jnp.linalg.norm(expected))
