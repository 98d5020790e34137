"""The structured kernels for sides that are no powers of two, and for split inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import float8
from tera_jax.methods import tera
from tera_jax.methods.tera import TeRA
from tera_jax.network import cost_model, hadamard, structured
from tera_jax.network.kernels import rectangular
from tera_jax.network.tensorization import Tensorization
from tera_jax.random import seed_key
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.network.networks import dense_core, far

SMALL = [
    "160|4x5x4x6:5",  # more columns than ranks; every tile is padded
    "4x5x4x6:5|160",  # inputs split: two kernels, for the core's tile is not the transform's
    "16x16|256",  # one
    "160|5x8x5x8",  # sides of 40 are in two parts
]
TILES = [  # the split side is several: its transform has three Kronecker factors, of up to 16
    "128|3:2x2x5x4x6:4",  # three, by a matrix of two rows
    "2x2x5x4x4|128",
]
MORE = [
    "192|4x6x4x6",
    "576|4x6x4x6",  # a square kernel
    "4x6x4x6|192",
    "4x8x8x8|1024",  # a tile of 16 x 64 becomes one of 32 x 32 in registers
    "1024|4x8x8x8",
]
MODELS = {
    "Llama-2-7B": [(4096, 11008), (11008, 4096)],
    "Llama-2-13B": [(5120, 5120), (5120, 13824), (13824, 5120)],
    "Llama-3-8B": [(4096, 1024), (4096, 14336), (14336, 4096)],
    "Llama-3-70B": [(8192, 1024), (8192, 28672), (28672, 8192)],
    "Qwen2.5-7B": [(3584, 3584), (3584, 512), (3584, 18944), (18944, 3584)],
    "SmolLM2-135M": [(576, 576), (576, 192), (576, 1536), (1536, 576)],
}
BOUNDS = {"float32": 1e-5, "bfloat16": 1e-2}


class Example:
    """A structured network with no d at zero, and what its kernels take."""

    def __init__(self, text, dtype, tokens=32):
        scheme = Tensorization.parse(text)
        self.split_in = scheme.split > 1
        random = np.random.default_rng(0)
        draw = jax.jit(tera.init_frozen, static_argnums=(1, 2))
        config = TeRA(structure="hadamard", gain=4.0, dtype=dtype)
        frozen = draw(seed_key(0, text), scheme, config)
        self.d = [jnp.asarray(1 + 0.5 * random.standard_normal(r), "float32") for r in scheme.ranks]
        self.core = dense_core(frozen["core"], scheme.ranks)
        self.factors = [_dense(factor) for factor in frozen["factors"]]
        arrays = frozen["core"], frozen["factors"]
        self.parts, self.pull = jax.vjp(
            lambda d: structured.parts(*arrays, d, self.split_in), self.d
        )
        self.scheme = scheme
        shapes = scheme.shape, (tokens, scheme.shape[0]), (tokens, scheme.shape[1])
        drawn = [jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes]
        self.kernel, self.x_TI, self.ct_TO = drawn

    def adapted(self, kernel):
        return structured.adapted(kernel, *self.parts, True, self.split_in)

    def gradients(self):
        to = structured.gradients(self.x_TI, self.ct_TO, *self.parts, True, self.split_in)
        return self.pull((jax.tree.map(jnp.zeros_like, self.parts[0]), to))[0]

    def contracted(self, but=None):
        """In float64: with all factors and d, or all but one of them."""
        tensor = self.core
        for axis, (factor, d) in enumerate(zip(self.factors, self.d, strict=True)):
            if axis != but:
                scaled = np.asarray(d, np.float64)[:, None] * factor
                tensor = np.moveaxis(np.tensordot(tensor, scaled, (axis, 0)), -1, axis)
        return tensor

    def exact_gradient(self, axis):
        weight = np.asarray(self.x_TI, np.float64).T @ np.asarray(self.ct_TO, np.float64)
        weight = weight.reshape(self.scheme.modes)
        weight = np.moveaxis(np.tensordot(weight, self.factors[axis], (axis, 1)), -1, axis)
        others = tuple(i for i in range(weight.ndim) if i != axis)
        return np.sum(self.contracted(but=axis) * weight, axis=others)


def _dense(factor):
    return hadamard.dense(factor) if factor.ndim == 1 else np.asarray(factor, np.float64)


@pytest.fixture
def small_transforms(monkeypatch):
    """So that short sides have transforms of three Kronecker factors."""
    monkeypatch.setattr(hadamard, "WIDEST", 16)
    hadamard.kronecker_sizes.cache_clear()
    yield
    hadamard.kronecker_sizes.cache_clear()


@pytest.mark.parametrize("text", quick_only(SMALL, SMALL + MORE))
@pytest.mark.parametrize("dtype", quick_only(["float32"], BOUNDS))
def test_the_adapted_kernel_and_the_gradients_equal_float64(text, dtype):
    equals_float64(Example(text, dtype))


@pytest.mark.parametrize("text", quick_only(TILES[:1], TILES))
@pytest.mark.parametrize("dtype", quick_only(["float32"], BOUNDS))
def test_so_do_those_of_a_side_of_several_tiles(text, dtype, small_transforms):
    each = Example(text, dtype)
    assert len(hadamard.kronecker_sizes(max(each.scheme.core_shape))) == 3
    equals_float64(each)


def equals_float64(each):
    dtype = each.kernel.dtype.name
    exact = each.contracted().reshape(each.scheme.shape)
    within(far(each.adapted(jnp.zeros(each.scheme.shape)), exact), 2 * BOUNDS[dtype])
    added = each.adapted(each.kernel)
    assert added.dtype == jnp.dtype(dtype)
    within(far(added, np.asarray(each.kernel, np.float64) + exact), 2 * BOUNDS[dtype])
    # Together: a gradient of few entries may by chance be a small sum of large terms.
    right = np.concatenate([each.exact_gradient(axis) for axis in range(each.scheme.order)])
    error = np.linalg.norm(np.concatenate(each.gradients()) - right)
    within(error, 2 * BOUNDS[dtype] * np.linalg.norm(right))


@pytest.mark.parametrize("text", quick_only([], SMALL))
def test_both_change_with_every_argument(text):
    every_argument_counts(Example(text, "float32"))


@pytest.mark.long
def test_those_of_several_tiles_do_too(small_transforms):
    every_argument_counts(Example(TILES[0], "float32"))


def every_argument_counts(each):
    made, found = each.adapted(each.kernel), each.gradients()
    frozen, trained = each.parts
    tiles = frozen.first_CZ is not None
    leaves, form = jax.tree.flatten((frozen, trained))
    assert len(leaves) == 8 + 2 * tiles
    for i, part in enumerate(leaves):
        changed = [*leaves]
        changed[i] = part.at[0].multiply(1.5)
        each.parts = jax.tree.unflatten(form, changed)
        assert not jnp.allclose(each.adapted(each.kernel), made)
        assert not all(map(jnp.allclose, each.gradients(), found))


@pytest.mark.parametrize("text", quick_only([], SMALL))
def test_codes_of_a_kernel_are_read_in_its_place(text):
    each = Example(text, "bfloat16")
    random = np.random.default_rng(1)
    scale_O = jnp.asarray(np.exp2(random.integers(-3, 4, each.scheme.shape[1])), jnp.bfloat16)
    stored = float8.by_channels(each.kernel * scale_O[None])
    found = each.adapted(stored)
    assert jnp.array_equal(found, each.adapted(stored.dequantize()))
    changed = each.adapted(stored.replace(channel_scales=2 * stored.channel_scales))
    assert not jnp.array_equal(found, changed)


@pytest.mark.parametrize("model", MODELS)
def test_all_linear_layers_of_known_models_have_kernels(model):
    method = TeRA(structure="hadamard", side="longer")
    for shape in MODELS[model]:
        network = cost_model.Network(method.tensorization(shape), "hadamard")
        assert network.is_structured(8192)
        assert not network.is_structured(8200)
        if min(shape) > 576:  # below that all routes take microseconds
            assert cost_model.route(network, 8192, cost_model.device("H100")) == "project"


def test_a_side_of_several_tiles_has_kernels_beside_one_no_longer_than_a_tile():
    for scheme, fits in (
        ("3584|2x2x37x8x16", True),
        ("3584|4x37x8x16", False),  # no group of modes has the 2 of 2 x 74 x 128
        ("9472|2x2x37x8x16", True),
        ("12288|2x2x37x8x16", False),  # above 74 x 128
        ("2x2x37x8x16:8|3584", False),  # fewer ranks than the core has
    ):
        network = cost_model.Network(Tensorization.parse(scheme), "hadamard")
        assert network.is_structured(8192) == fits, scheme


@pytest.mark.long
def test_every_token_counts_however_many_a_program_takes():
    tokens = 8224  # no multiple of the most in a program
    each = Example("16x16|256", "float32", tokens)

    def of(start, stop):
        x_TI, ct_TO = each.x_TI[start:stop], each.ct_TO[start:stop]
        return structured.gradients(x_TI, ct_TO, *each.parts, True, each.split_in)

    few = tokens - 32
    arrays = map(jax.tree.leaves, (of(0, tokens), of(0, few), of(few, tokens)))
    for whole, *parts in zip(*arrays, strict=True):
        within(far(sum(parts), whole), 1e-5)
        assert far(parts[0], whole) > 1e-3


@pytest.mark.parametrize(
    ("capability", "ahead", "fits"), [(9.0, 3, True), (8.0, 2, True), (8.9, 0, False)]
)
def test_a_card_with_little_shared_memory_has_fewer_buffers_or_no_kernels(
    monkeypatch, capability, ahead, fits
):
    monkeypatch.setattr("tera_jax.ops.dispatch.on_gpu", lambda: True)
    monkeypatch.setattr("tera_jax.ops.dispatch.compute_capability", lambda: capability)
    sides = [(1, 1), (86, 86), (128, 128)]
    assert rectangular.buffers(rectangular.sizes(4096, (4096, 11008), sides, False)) == ahead
    for scheme, found in (("4096|2x43x8x16", fits), ("4096|8x8x8x8", True)):
        network = cost_model.Network(Tensorization.parse(scheme), "hadamard")
        assert network.is_structured(8192) == found


@pytest.mark.long
@pytest.mark.parametrize("shape", [shape for shapes in MODELS.values() for shape in shapes])
def test_they_lower_for_a_gpu(shape):
    scheme = TeRA(side="longer").tensorization(shape)
    split_in = scheme.split > 1
    config = TeRA(structure="hadamard", dtype="bfloat16")
    frozen = jax.eval_shape(lambda: tera.init_frozen(seed_key(0, "lower"), scheme, config))
    d = [jax.ShapeDtypeStruct((rank,), jnp.float32) for rank in scheme.ranks]
    x, ct, kernel = (
        jax.ShapeDtypeStruct(size, jnp.bfloat16) for size in ((64, shape[0]), (64, shape[1]), shape)
    )

    def both(frozen, d, x, ct, kernel):
        parts = structured.parts(frozen["core"], frozen["factors"], d, split_in)
        options = {"split_in": split_in}
        return (
            structured.adapted(kernel, *parts, **options),
            structured.gradients(x, ct, *parts, **options),
        )

    traced = jax.jit(both).trace(frozen, d, x, ct, kernel)
    assert "gpu.triton" in traced.lower(lowering_platforms=("cuda",)).as_text()
