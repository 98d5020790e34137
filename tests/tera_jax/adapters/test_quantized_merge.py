"""Merging an adapter on a quantised base, into plain weights and into the base itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import quantize
from tera_jax.adapters.quantized_merge import merge_quantized
from tera_jax.methods import NotMergeableError
from tera_jax.quantize import KINDS, quantize_kernel
from tests.marks import quick_only
from tests.tera_jax.quantized import assert_same, base, block, leaves, made


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("name", "kind"),
    quick_only(
        [("lora", "fp8")],
        [("tera", "nf4"), ("lora", "nf4"), ("dora", "nf4"), ("pissa", "nf4"), ("lora", "fp8")],
        names=2,
    ),
)
def test_merged_weights_are_plain_and_those_of_the_plain_base(name, kind, dtype):
    adapter, model, v, tokens_BL = made(name, kind, dtype=dtype)
    merged = jax.jit(adapter.merge)(v)
    assert_same(merged, jax.jit(adapter.merge)({**v, "params": quantize.dequantize(v["params"])}))
    assert {leaf.dtype for leaf in leaves(merged)} == {jnp.dtype(dtype)}
    kernels = [p["layers"]["mlp"]["down_proj"]["kernel"] for p in (merged, v["params"])]
    assert not np.allclose(kernels[0], quantize.dequantize(kernels[1]), atol=1e-3)
    if dtype == jnp.float32 and kind != "fp8":  # whose activations are rounded, unmerged
        expected, _ = jax.jit(lambda v: adapter.apply(model, v, tokens_BL))(v)
        found, _ = model.apply({"params": merged}, tokens_BL)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * np.ptp(expected))


@pytest.mark.parametrize("kind", quick_only(["nf4", "fp8"], KINDS))
def test_merging_into_the_quantised_base_reports_its_error(kind):
    adapter, _, v, _ = made("tera", kind)
    params, error = jax.jit(functools.partial(merge_quantized, adapter))(v)
    exact = jax.jit(adapter.merge)(v)  # float32 here
    assert set(error.kernels) == {site.name for site in adapter.layers}
    lost = whole = 0.0
    for name, found in error.kernels.items():
        kept, expected = params["layers"], exact["layers"]
        for part in name.split("/")[1:]:
            kept, expected = kept[part], expected[part]
        kept, expected = kept["kernel"], np.asarray(expected["kernel"], np.float64)
        assert_same(kept, quantize_kernel(jnp.asarray(expected, jnp.float32), kind, block(kind)))
        difference = np.asarray(kept.dequantize(), np.float64) - expected
        squares = np.sum(difference**2, axis=(1, 2)), np.sum(expected**2, axis=(1, 2))
        np.testing.assert_allclose(found, np.sqrt(squares[0] / squares[1]), rtol=1e-3)
        lost, whole = lost + squares[0].sum(), whole + squares[1].sum()
    np.testing.assert_allclose(error.total, np.sqrt(lost / whole), rtol=1e-3)
    low, high = {"int8": (1e-3, 0.01), "fp8": (0.01, 0.04)}.get(kind, (0.03, 0.12))
    assert low < error.total < high
    untouched = [p["layers"]["mlp"]["up_proj"]["kernel"] for p in (params, v["params"])]
    assert_same(*untouched)
    touched = [p["layers"]["mlp"]["down_proj"]["kernel"] for p in (params, v["params"])]
    before, after = (kernel.dequantize() for kernel in touched)
    assert not jnp.array_equal(before, after)


def test_merging_into_a_base_that_is_not_quantised_is_refused():
    adapter, _, v, _ = made("tera")
    with pytest.raises(ValueError, match=r"'layers/.*' is not quantised; merge\(\)"):
        merge_quantized(adapter, {**v, "params": base()[1]})
    adapter, _, v, _ = made("prompt")
    with pytest.raises(NotMergeableError, match="prompt changes no kernel"):
        merge_quantized(adapter, v)
