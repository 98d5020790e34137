"""A matmul whose result has the type that its sums are taken in, as logits are."""

import functools
from typing import Any

import jax
from jax import lax

from tera_jax.ops.numerics import acc_dtype


def dot_general_acc(
    lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, precision: Any = None, **_: Any
) -> jax.Array:
    """``lax.dot_general`` that returns the float32 (or float64) in which it accumulates."""
    return _product(dimension_numbers, precision, lhs, rhs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(contract: Any, precision: Any, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Its gradients are matmuls in the type of the operands: float32 takes twice as long."""
    return lax.dot_general(
        lhs, rhs, contract, precision=precision, preferred_element_type=acc_dtype(lhs.dtype)
    )


def _product_forward(contract: Any, precision: Any, lhs: jax.Array, rhs: jax.Array) -> Any:
    return _product(contract, precision, lhs, rhs), (lhs, rhs)


def _product_backward(contract: Any, precision: Any, operands: Any, cotangent: jax.Array) -> Any:
    lhs, rhs = operands
    product = functools.partial(lax.dot_general, dimension_numbers=contract, precision=precision)
    cotangent = cotangent.astype(lhs.dtype)
    (to_lhs,) = jax.linear_transpose(lambda lhs: product(lhs, rhs), lhs)(cotangent)
    (to_rhs,) = jax.linear_transpose(lambda rhs: product(lhs, rhs), rhs)(cotangent)
    return to_lhs, to_rhs


_product.defvjp(_product_forward, _product_backward)
