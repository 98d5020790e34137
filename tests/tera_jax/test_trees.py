import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import trees


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_array_that_is_not_finite_is_named(value, dtype):
    tree = {"d": {"a": jnp.ones(3, dtype), "b": jnp.ones((2, 2), dtype)}, "step": jnp.int32(4)}
    assert trees.not_finite(tree) is None
    trees.require_finite(tree, "the adapter")
    tree["d"]["b"] = tree["d"]["b"].at[1, 0].set(value)
    assert trees.not_finite(tree) == "d/b"
    with pytest.raises(ValueError, match="d/b of the adapter has entries that are NaN or infinite"):
        trees.require_finite(tree, "the adapter")


def test_one_byte_floats_are_looked_at_too():
    codes = np.zeros(2, "float8_e4m3fn")
    assert trees.not_finite({"a": codes}) is None
    codes[1] = np.nan
    assert trees.not_finite({"a": codes}) == "a"
