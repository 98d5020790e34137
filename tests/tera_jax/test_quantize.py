"""Kernels in few bits against NumPy and qwix."""

import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from tera_jax import quantize, trees
from tera_jax.fingerprint import base_fingerprint
from tera_jax.llama import load_pretrained, save_pretrained
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.quantize import KINDS, NF4, QuantizedKernel, quantize_kernel
from tera_jax.sharding import make_mesh, replicated
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.quantized import BLOCK, IN_BLOCKS, assert_same, base, block, made


def kernel(*shape, dtype=jnp.float32):
    """Of weights that are nearly normal, with an outlier and a block of zeros."""
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    array[..., 3, 5] = 9.0
    array[..., :64, 1] = 0.0
    return jnp.asarray(array, dtype)


def reference(kernel_IO, kind, block):
    """What a kernel reads as, by the definition: the nearest entry of the scaled code book."""
    book = {"int8": np.arange(-128, 128.0), "int4": np.arange(-8, 8.0), "nf4": np.asarray(NF4)}[
        kind
    ]
    outermost = 1.0 if kind == "nf4" else book[-1] + 0.5
    found = np.zeros_like(kernel_IO)
    for start in range(0, len(kernel_IO), block):
        for column in range(kernel_IO.shape[1]):
            part = kernel_IO[start : start + block, column]
            scaled = float(jnp.bfloat16(np.max(np.abs(part)) / outermost)) * book
            nearest = np.argmin(np.abs(part[:, None] - scaled[None, :]), axis=1)
            found[start : start + block, column] = scaled[nearest]
    return found


def test_the_code_book_is_that_of_the_paper():
    # The construction of QLoRA's authors: quantiles of a normal distribution, eight of the upper
    # half and seven of the lower, and zero, scaled to reach one.
    offset, inverse = 0.9677083, statistics.NormalDist().inv_cdf
    upper = [inverse(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    lower = [-inverse(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    expected = np.sort([*lower, 0.0, *upper]) / max(upper)
    np.testing.assert_allclose(NF4, expected, atol=1e-6)
    assert len(set(NF4)) == 16
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(np.asarray(NF4) * 1.00001, expected, atol=1e-6)


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("kind", IN_BLOCKS)
def test_a_kernel_reads_as_its_nearest_codes(kind, size):
    kernel_IO = kernel(128, 12)
    found = quantize_kernel(kernel_IO, kind, size)
    expected = reference(np.asarray(kernel_IO, np.float64), kind, size)
    np.testing.assert_allclose(found.dequantize(), expected, rtol=1e-6)
    assert (found.shape, found.dtype, found.block) == ((128, 12), jnp.float32, size)
    assert jnp.all(found.dequantize()[:64, 1] == 0)
    other = found.replace(values=jnp.roll(found.values, 1, axis=0))
    assert not np.allclose(other.dequantize(), expected, rtol=1e-2)


@pytest.mark.parametrize("kind", IN_BLOCKS)
def test_no_weight_is_further_away_than_half_a_gap(kind):
    kernel_IO = np.asarray(kernel(256, 16))
    error = np.abs(np.asarray(quantize_kernel(kernel_IO, kind, 64).dequantize()) - kernel_IO)
    largest = np.abs(kernel_IO).reshape(4, 64, 16).max(axis=1).repeat(64, axis=0)
    half_gap = {"int8": 0.5 / 127.5, "int4": 0.5 / 7.5, "nf4": (1 - 0.6961928) / 2}[kind]
    # A bound that codes come near to, and no tolerance. The scale has 8 bits.
    assert np.all(error <= largest * (half_gap + 2**-8))
    assert np.max(error / np.maximum(largest, 1e-9)) > 0.8 * half_gap


@pytest.mark.parametrize("kind", IN_BLOCKS)
def test_qwix_reads_the_same_and_is_as_near(kind):
    kernel_IO = kernel(512, 64)
    ours = quantize_kernel(kernel_IO, kind, 64)
    qtype = {"int8": jnp.int8, "int4": jnp.int4, "nf4": "nf4"}[kind]
    theirs = qwix.quantize(kernel_IO, qtype, channelwise_axes=(1,), tiled_axes={0: 64})
    codes = ours.values
    if kind != "int8":
        pairs = np.asarray(codes)
        codes = jnp.asarray(np.stack([pairs & 15, pairs >> 4], axis=1).reshape(512, 64))
        codes = codes.astype(jnp.uint4)
        codes = jax.lax.bitcast_convert_type(codes, theirs.qvalue.dtype)
    scales = ours.scales.astype(jnp.float32)
    read = qwix.dequantize(theirs.replace(qvalue=codes, scale=scales))
    assert jnp.array_equal(read, ours.dequantize())
    assert not jnp.array_equal(qwix.dequantize(theirs), read)
    error = [np.linalg.norm(found - kernel_IO) for found in (read, qwix.dequantize(theirs))]
    within(abs(error[0] / error[1] - 1), 0.02)  # their scale is not rounded


@pytest.mark.parametrize(
    ("kind", "bits"), [("int8", 8.25), ("int4", 4.25), ("nf4", 4.25), ("fp8", 8.25)]
)
def test_a_weight_takes_as_many_bits_as_it_says(kind, bits):
    found = quantize_kernel(kernel(3, 128, 32), kind, 64)
    arrays = jax.tree.leaves(found)
    assert found.size == 3 * 128 * 32
    assert sum(array.nbytes for array in arrays) * 8 == bits * found.size
    assert sum(array.on_device_size_in_bytes() for array in arrays) * 8 == bits * found.size
    plan = jax.jit(lambda k: k.dequantize().sum()).lower(found).compile().memory_analysis()
    assert plan.argument_size_in_bytes * 8 == bits * found.size


def test_a_stack_is_quantised_layer_by_layer():
    stack = (
        kernel(3, 64, 8, dtype=jnp.bfloat16) * jnp.asarray([1, 2, 3], jnp.bfloat16)[:, None, None]
    )
    whole = quantize_kernel(stack, "nf4", 16)
    for layer in range(3):
        one = jax.tree.map(lambda leaf, layer=layer: leaf[layer], whole)
        alone = quantize_kernel(stack[layer], "nf4", 16)
        assert all(map(jnp.array_equal, jax.tree.leaves(one), jax.tree.leaves(alone)))
        assert not jnp.array_equal(one.scales, whole.scales[layer - 1])
    assert whole.dequantize().dtype == jnp.bfloat16


def test_only_the_seven_linear_layers_are_quantised():
    _, params = base()
    found = quantize.quantize(params, "int4", BLOCK)
    changed = {
        trees.name(path)
        for path, leaf in jax.tree.leaves_with_path(found, is_leaf=quantize.is_quantized)
        if quantize.is_quantized(leaf)
    }
    attention = {f"layers/self_attn/{name}_proj/kernel" for name in "qkvo"}
    mlp = {f"layers/mlp/{name}_proj/kernel" for name in ("gate", "up", "down")}
    assert changed == attention | mlp
    assert quantize.size(found) == quantize.size(params)
    assert quantize.any_quantized(found)
    assert not quantize.any_quantized(params)


@pytest.mark.parametrize("kind", ["nf4", "fp8"])
def test_reading_and_writing_move_nothing_between_devices(kind):
    mesh = make_mesh(1, 4, 2)
    params = {"layers": {"mlp": {"gate_proj": {"kernel": jnp.zeros((2, 64, 32))}}}}
    (layout,) = jax.tree.leaves(parameter_shardings(params, mesh))
    stack = jax.device_put(params["layers"]["mlp"]["gate_proj"]["kernel"], layout)

    def collectives(function, *args, **kwargs):
        text = jax.jit(function, **kwargs).lower(*args).compile().as_text()
        return [word for word in ("all-gather", "all-to-all", "permute") if word in text]

    found = quantize.quantize(
        params, kind, block(kind), functools.partial(parameter_shardings, mesh=mesh)
    )
    packed = found["layers"]["mlp"]["gate_proj"]["kernel"]
    layouts = jax.tree.map(lambda leaf: leaf.sharding, packed)

    def read(kernel):
        return kernel.dequantize()

    def write(kernel):
        return quantize_kernel(kernel, kind, block(kind))

    assert not collectives(write, stack, out_shardings=layouts)
    assert not collectives(read, packed, out_shardings=layout)
    assert collectives(read, packed, out_shardings=replicated(mesh))


@pytest.mark.parametrize("kind", quick_only(["fp8"], KINDS))
def test_a_checkpoint_is_quantised_as_it_is_read(kind, tmp_path):
    model, params = base(jnp.bfloat16)
    save_pretrained(model, params, tmp_path / "hf")
    again, found = load_pretrained(
        tmp_path / "hf", jnp.bfloat16, make_mesh(1, 2, 2), quantize=kind, block=block(kind)
    )
    expected = quantize.quantize(params, kind, block(kind))
    assert again.config == model.config
    assert_same(found, expected)
    assert base_fingerprint(found) == base_fingerprint(expected)
    other = quantize.quantize(params, "int8", 16)
    digits = {base_fingerprint(tree) for tree in (found, other, params)}
    assert len(digits) == 3


def test_one_plain_stack_at_a_time_stands_beside_what_is_kept(tmp_path, monkeypatch):
    model, params = base(jnp.bfloat16)
    save_pretrained(model, params, tmp_path / "hf")
    del params
    live = []
    call = quantize.Quantizer.__call__

    def watched(self, path, leaf):
        live.append({array.shape for array in jax.live_arrays() if array.dtype == jnp.bfloat16})
        return call(self, path, leaf)

    monkeypatch.setattr(quantize.Quantizer, "__call__", watched)
    base.cache_clear()
    made.cache_clear()
    _, found = load_pretrained(tmp_path / "hf", jnp.bfloat16, quantize="nf4", block=BLOCK)
    plain = {(2, 32, 48), (2, 48, 32), (2, 32, 32), (2, 32, 16)}
    assert max(len(shapes & plain) for shapes in live) == 1
    assert quantize.any_quantized(found)


def test_what_cannot_be_quantised_is_refused(tmp_path):
    model, params = base()
    with pytest.raises(ValueError, match="quantisation 'fp3' is unknown; choose one of int8, int4"):
        quantize.quantize(params, "fp3")
    with pytest.raises(ValueError, match="block 7; it must be even"):
        quantize.quantize(params, "nf4", 7)
    with pytest.raises(ValueError, match="block 32, but 'fp8' has one scale for each output"):
        quantize.quantize(params, "fp8", 32)
    with pytest.raises(ValueError, match=r"down_proj/kernel: block 32 does not divide the 48"):
        quantize.quantize(params, "nf4", 32)
    layout = functools.partial(parameter_shardings, mesh=make_mesh(1, 8, 1))
    with pytest.raises(ValueError, match=r"fsdp=8 does not divide.* 4 .*/scales.*smaller blocks"):
        quantize.quantize(params, "nf4", 8, layout)
    with pytest.raises(ValueError, match=r"no kernel is named by \*_dense; nothing to quantise"):
        quantize.quantize(params, "nf4", 8, targets=("*_dense",))
    save_pretrained(model, params, tmp_path / "hf")
    with pytest.raises(ValueError, match="quantisation 'q4' is unknown"):
        load_pretrained(tmp_path / "hf", quantize="q4")


def test_a_quantised_kernel_is_a_pytree_of_two_arrays():
    found = quantize_kernel(kernel(64, 8), "nf4", 16)
    assert isinstance(jax.tree.map(lambda leaf: leaf, found), QuantizedKernel)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [jnp.uint8, jnp.bfloat16]
    assert found.ndim == 2
