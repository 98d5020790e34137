"""Kernels in few bits against NumPy and qwix, and every method on a base that is made of them."""

import functools
import statistics

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from tera_jax import adapt, quantize, trees
from tera_jax.adapters.interceptor import dequantized
from tera_jax.adapters.quantized_merge import merge_quantized
from tera_jax.fingerprint import base_fingerprint
from tera_jax.io.adapter_files import load_adapter, save_adapter
from tera_jax.llama import Llama, LlamaConfig, load_pretrained, save_pretrained
from tera_jax.methods import TABLE, NotMergeableError
from tera_jax.quantize import KINDS, NF4, QuantizedKernel, quantize_kernel
from tera_jax.sharding import make_mesh, parameter_shardings, replicated, rows
from tests import parts
from tests.margins import within

BLOCK = 8
CONFIG = LlamaConfig.from_hf(parts.SMALL)
SETTINGS = {
    "tera": {"num_modes": 2},
    "lora": {"rank": 4},
    "dora": {"rank": 4},
    "pissa": {"rank": 4},
    "toplora": {"rank": 4, "dropout": 0.0},
    "prompt": {"num_virtual_tokens": 4},
}


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


@pytest.mark.parametrize("block", [8, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_reads_as_its_nearest_codes(kind, block):
    kernel_IO = kernel(128, 12)
    found = quantize_kernel(kernel_IO, kind, block)
    expected = reference(np.asarray(kernel_IO, np.float64), kind, block)
    np.testing.assert_allclose(found.dequantize(), expected, rtol=1e-6)
    assert (found.shape, found.dtype, found.block) == ((128, 12), jnp.float32, block)
    assert jnp.all(found.dequantize()[:64, 1] == 0)
    other = found.replace(values=jnp.roll(found.values, 1, axis=0))
    assert not np.allclose(other.dequantize(), expected, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_is_further_away_than_half_a_gap(kind):
    kernel_IO = np.asarray(kernel(256, 16))
    error = np.abs(np.asarray(quantize_kernel(kernel_IO, kind, 64).dequantize()) - kernel_IO)
    largest = np.abs(kernel_IO).reshape(4, 64, 16).max(axis=1).repeat(64, axis=0)
    half_gap = {"int8": 0.5 / 127.5, "int4": 0.5 / 7.5, "nf4": (1 - 0.6961928) / 2}[kind]
    # A bound that codes come near to, and no tolerance. The scale has 8 bits.
    assert np.all(error <= largest * (half_gap + 2**-8))
    assert np.max(error / np.maximum(largest, 1e-9)) > 0.8 * half_gap


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8.25), ("int4", 4.25), ("nf4", 4.25)])
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


@functools.cache
def base(dtype=jnp.float32):
    """A Llama with weights that are all random, norms and biases too."""
    model = Llama(CONFIG, dtype=dtype)
    random = np.random.default_rng(0)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(
        lambda p: p + jnp.asarray(0.1 * random.standard_normal(p.shape), p.dtype), params
    )
    return model, params


@functools.cache
def made(name, kind="nf4", dtype=jnp.float32):
    """The model, an adapter, perturbed variables on a quantised base, and tokens."""
    model, params = base(dtype)
    params = quantize.quantize(params, kind, BLOCK)
    config = TABLE[name](**SETTINGS[name])
    adapter = adapt(
        model,
        jnp.ones((1, 2), jnp.int32),
        method=name,
        config=config,
        targets=("q_proj", "v_proj", "down_proj"),
    )
    variables, tokens_BL = parts.perturbed(adapter, params, np.random.default_rng(1))
    return adapter, model, variables, tokens_BL


def value_and_grad(adapter, model):
    return jax.jit(parts.value_and_grad(adapter, model))


def leaves(tree):
    return jax.tree.leaves(tree, is_leaf=quantize.is_quantized)


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6 * np.abs(b).max())


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert jnp.array_equal(a, b)


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


@pytest.mark.parametrize(
    ("name", "kind"), [("tera", "int8"), ("tera", "int4"), *((name, "nf4") for name in SETTINGS)]
)
def test_a_method_on_a_quantised_base_is_the_method_on_what_it_stands_for(name, kind):
    adapter, model, v, tokens_BL = made(name, kind)
    plain = quantize.dequantize(v["params"])
    step = value_and_grad(adapter, model)
    found = step(v["d"], v["params"], v["frozen"], tokens_BL)
    assert_close(found, step(v["d"], plain, v["frozen"], tokens_BL))
    assert all(jnp.any(gradient != 0) for gradient in jax.tree.leaves(found[1]))
    # W itself is read at the start by PiSSA and DoRA.
    assert_close(adapter.init_frozen(v["params"]), adapter.init_frozen(plain))
    assert_close(adapter.init_d(v["params"], v["frozen"]), adapter.init_d(plain, v["frozen"]))
    before, _ = step(v["d"], base()[1], v["frozen"], tokens_BL)
    assert abs(found[0] - before) > 1e-4


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_no_plain_kernel_is_kept_for_the_backward_pass(remat):
    adapter, _, v, tokens_BL = made("tera")

    def kept(remat):
        def loss(d):
            model = Llama(CONFIG, remat=remat)
            return jnp.sum(adapter.apply(model, {**v, "d": d}, tokens_BL)[0] ** 2)

        residuals = jax.tree.leaves(jax.eval_shape(lambda d: jax.vjp(loss, d)[1], v["d"]))
        kernels = [
            (2, 32, 48),
            (2, 48, 32),
        ]  # gate, up and down, of which no method builds the first
        return [
            leaf for leaf in residuals if leaf.shape == kernels[0] and leaf.dtype == jnp.float32
        ]

    assert not kept(remat)
    assert kept("none")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["tera", "lora", "dora", "pissa"])
def test_merged_weights_are_plain_and_those_of_the_plain_base(name, dtype):
    adapter, model, v, tokens_BL = made(name, dtype=dtype)
    merged = jax.jit(adapter.merge)(v)
    assert_same(merged, jax.jit(adapter.merge)({**v, "params": quantize.dequantize(v["params"])}))
    assert {leaf.dtype for leaf in leaves(merged)} == {jnp.dtype(dtype)}
    kernels = [p["layers"]["mlp"]["down_proj"]["kernel"] for p in (merged, v["params"])]
    assert not np.allclose(kernels[0], quantize.dequantize(kernels[1]), atol=1e-3)
    if dtype == jnp.float32:
        expected, _ = jax.jit(lambda v: adapter.apply(model, v, tokens_BL))(v)
        found, _ = model.apply({"params": merged}, tokens_BL)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * np.ptp(expected))


@pytest.mark.parametrize("kind", KINDS)
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
        assert_same(kept, quantize_kernel(jnp.asarray(expected, jnp.float32), kind, BLOCK))
        difference = np.asarray(kept.dequantize(), np.float64) - expected
        squares = np.sum(difference**2, axis=(1, 2)), np.sum(expected**2, axis=(1, 2))
        np.testing.assert_allclose(found, np.sqrt(squares[0] / squares[1]), rtol=1e-3)
        lost, whole = lost + squares[0].sum(), whole + squares[1].sum()
    np.testing.assert_allclose(error.total, np.sqrt(lost / whole), rtol=1e-3)
    low, high = {"int8": (1e-3, 0.01), "int4": (0.03, 0.12), "nf4": (0.03, 0.12)}[kind]
    assert low < error.total < high
    untouched = [p["layers"]["mlp"]["up_proj"]["kernel"] for p in (params, v["params"])]
    assert_same(*untouched)
    touched = [p["layers"]["mlp"]["down_proj"]["kernel"] for p in (params, v["params"])]
    assert not jnp.array_equal(touched[0].values, touched[1].values)


def test_merging_into_a_base_that_is_not_quantised_is_refused():
    adapter, _, v, _ = made("tera")
    with pytest.raises(ValueError, match=r"'layers/.*' is not quantised; merge\(\)"):
        merge_quantized(adapter, {**v, "params": base()[1]})
    adapter, _, v, _ = made("prompt")
    with pytest.raises(NotMergeableError, match="prompt changes no kernel"):
        merge_quantized(adapter, v)


def test_nothing_is_built_ahead_on_a_quantised_base():
    adapter, _, v, _ = made("tera")
    plain = {**v, "params": quantize.dequantize(v["params"])}
    assert leaves(jax.eval_shape(lambda v: adapter.materialize(v, 2**20), plain))
    assert adapter.materialize(v, 2**20) == {}


def test_a_sharded_base_equals_one_device():
    adapter, model, v, tokens_BL = made("tera")
    mesh = make_mesh(2, 2, 2)
    plain = jax.device_put(base()[1], parameter_shardings(base()[1], mesh))
    params = quantize.quantize(plain, "nf4", BLOCK, mesh)
    assert_same(params, v["params"])
    gate = params["layers"]["mlp"]["gate_proj"]["kernel"]
    assert gate.values.addressable_shards[0].data.shape == (2, 16 // 2, 48 // 2)
    assert gate.scales.addressable_shards[0].data.shape == (2, 4 // 2, 48 // 2)
    with jax.set_mesh(mesh):
        found = value_and_grad(adapter, model)(
            *jax.device_put((v["d"],), replicated(mesh)),
            params,
            jax.device_put(v["frozen"], replicated(mesh)),
            jax.device_put(tokens_BL, rows(mesh)),
        )
    expected = value_and_grad(adapter, model)(v["d"], v["params"], v["frozen"], tokens_BL)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * np.abs(b).max())
    moved = gate.replace(scales=jnp.roll(gate.scales, 1, axis=1))
    assert not np.allclose(moved.dequantize(), gate.dequantize(), rtol=1e-2)


def test_reading_and_writing_move_nothing_between_devices():
    mesh = make_mesh(1, 4, 2)
    params = {"layers": {"mlp": {"gate_proj": {"kernel": jnp.zeros((2, 64, 32))}}}}
    (layout,) = jax.tree.leaves(parameter_shardings(params, mesh))
    stack = jax.device_put(params["layers"]["mlp"]["gate_proj"]["kernel"], layout)

    def collectives(function, *args, **kwargs):
        text = jax.jit(function, **kwargs).lower(*args).compile().as_text()
        return [word for word in ("all-gather", "all-to-all", "permute") if word in text]

    found = quantize.quantize(params, "nf4", BLOCK, mesh)
    packed = found["layers"]["mlp"]["gate_proj"]["kernel"]
    layouts = jax.tree.map(lambda leaf: leaf.sharding, packed)
    assert not collectives(lambda k: quantize_kernel(k, "nf4", BLOCK), stack, out_shardings=layouts)
    assert not collectives(lambda k: k.dequantize(), packed, out_shardings=layout)
    assert collectives(lambda k: k.dequantize(), packed, out_shardings=replicated(mesh))


class Layers(nn.Module):
    """Layers with a bias, with several axes, and with a product of their own."""

    @nn.compact
    def __call__(self, x_BD):
        def wide(lhs, rhs, dimensions, precision=None):
            return jax.lax.dot_general(
                lhs, rhs, dimensions, precision, preferred_element_type=jnp.float32
            )

        x_BD = nn.Dense(16, name="a_proj", bias_init=nn.initializers.ones)(x_BD)
        x_BD = nn.Dense(16, name="b_proj", dot_general=wide)(nn.tanh(x_BD))
        return nn.Dense(4, name="head")(x_BD)


def test_any_linen_model_reads_its_quantised_kernels():
    x_BD = jnp.asarray(np.random.default_rng(0).standard_normal((5, 16)), jnp.float32)
    params = Layers().init(jax.random.key(0), x_BD)["params"]
    kept = quantize.quantize(params, "int4", 4)
    with nn.intercept_methods(dequantized):
        found = Layers().apply({"params": kept}, x_BD)
        plain = Layers().apply({"params": params}, x_BD)
    expected = Layers().apply({"params": quantize.dequantize(kept)}, x_BD)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert jnp.array_equal(plain, Layers().apply({"params": params}, x_BD))
    assert not np.allclose(found, plain, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_quantised_as_it_is_read(kind, tmp_path):
    model, params = base(jnp.bfloat16)
    save_pretrained(model, params, tmp_path / "hf")
    again, found = load_pretrained(
        tmp_path / "hf", jnp.bfloat16, make_mesh(1, 2, 2), quantize=kind, block=BLOCK
    )
    assert again.config == model.config
    assert_same(found, quantize.quantize(params, kind, BLOCK))
    assert base_fingerprint(found) == base_fingerprint(quantize.quantize(params, kind, BLOCK))
    other = quantize.quantize(params, kind, 16)
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


def test_an_adapter_belongs_to_its_quantised_base(tmp_path):
    adapter, _, v, _ = made("tera")
    save_adapter(tmp_path / "a", adapter, v, "base")
    loaded, found = load_adapter(tmp_path / "a", v["params"])
    assert loaded == adapter
    assert_same(found["d"], v["d"])
    with pytest.raises(ValueError, match="allow_other_base=True"):
        load_adapter(tmp_path / "a", base()[1])


def test_what_cannot_be_quantised_is_refused(tmp_path):
    model, params = base()
    with pytest.raises(ValueError, match="quantisation 'fp3' is unknown; choose one of int8, int4"):
        quantize.quantize(params, "fp3")
    with pytest.raises(ValueError, match="block 7; it must be even"):
        quantize.quantize(params, "nf4", 7)
    with pytest.raises(ValueError, match=r"down_proj/kernel: block 32 does not divide the 48"):
        quantize.quantize(params, "nf4", 32)
    with pytest.raises(ValueError, match=r"fsdp=8 does not divide.* 4 .*/scales.*smaller blocks"):
        quantize.quantize(params, "nf4", 8, make_mesh(1, 8, 1))
    with pytest.raises(ValueError, match=r"no kernel is named by \*_dense; nothing to quantise"):
        quantize.quantize(params, "nf4", 8, targets=("*_dense",))
    save_pretrained(model, params, tmp_path / "hf")
    with pytest.raises(ValueError, match="quantisation 'q4' is unknown"):
        load_pretrained(tmp_path / "hf", quantize="q4")


def test_full_fine_tuning_of_a_quantised_base_is_refused():
    model, params = base()
    adapter = adapt(model, jnp.ones((1, 2), jnp.int32), method="full")
    assert leaves(adapter.init_d(params, {}))
    with pytest.raises(ValueError, match="full fine-tuning trains the base's own weights"):
        adapter.init_d(quantize.quantize(params, "int8", BLOCK), {})


def test_a_quantised_kernel_is_a_pytree_of_two_arrays():
    found = quantize_kernel(kernel(64, 8), "nf4", 16)
    assert isinstance(jax.tree.map(lambda leaf: leaf, found), QuantizedKernel)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [jnp.uint8, jnp.bfloat16]
    assert found.ndim == 2
