"""Sums of adapters and their LoRAs, against NumPy's and the methods' own merges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import quantize
from tera_jax.adapters.combine import Term, delta, kernel_layers, merged, require_terms
from tera_jax.adapters.factory import make
from tera_jax.adapters.truncation import decompose, require_rank
from tera_jax.methods import TABLE, NotMergeableError, TargetLayer
from tera_jax.trees import named
from tests.margins import within
from tests.marks import quick_only
from tests.parts import SMALL_METHODS

NOT_MERGEABLE = {"prompt", "p_tuning", "toplora"}


LINEAR = (
    TargetLayer(("layers", "self_attn", "q_proj"), (32, 32), (2,)),
    TargetLayer(("layers", "self_attn", "v_proj"), (32, 16), (2,)),
)
OTHERS = {
    "ln_tuning": TargetLayer(("layers", "norm"), (32,), (2,)),
    "prompt": TargetLayer(("embed",), (64, 32)),
    "p_tuning": TargetLayer(("embed",), (64, 32)),
}


def base(dtype=jnp.float32):
    """Two layers of two stacks, as params have them."""
    random = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(0.2 * random.standard_normal(shape), dtype)

    return {
        "layers": {
            "self_attn": {
                "q_proj": {"kernel": draw(2, 32, 32), "bias": draw(2, 32)},
                "v_proj": {"kernel": draw(2, 32, 16)},
            },
            "norm": {"scale": 1 + draw(2, 32)},
        },
        "embed": {"embedding": draw(64, 32)},
    }


def adapter_of(name, **fields):
    layers = {"full": ()}.get(name, (OTHERS[name],) if name in OTHERS else LINEAR)
    return make(name, TABLE[name](**{**SMALL_METHODS[name], **fields}), layers)


def term(name, weight=1.0, seed=1, params=None, **fields):
    """An adapter away from its start."""
    params = base() if params is None else params
    adapter = adapter_of(name, **fields)
    frozen = jax.jit(adapter.init_frozen)(params)
    random = np.random.default_rng(seed)
    d = jax.tree.map(
        lambda leaf: jnp.asarray(
            np.asarray(leaf) + 0.1 * random.standard_normal(leaf.shape), leaf.dtype
        ),
        jax.jit(adapter.init_d)(params, frozen),
    )
    return Term(weight, adapter, {"params": params, "frozen": frozen, "d": d})


def wide(array):
    return np.asarray(array, np.float64)


def q_proj(params):
    return wide(params["layers"]["self_attn"]["q_proj"]["kernel"])


def assert_close(found, expected, limit=1e-6):
    for name, leaf in named(expected).items():
        own = named(found)[name]
        assert own.dtype == leaf.dtype
        within(float(jnp.max(jnp.abs(own - leaf))), limit * float(jnp.max(jnp.abs(leaf)) + 1))


KINDS = ("dora", "full", "hira", "ia3", "ln_tuning", "lora", "pissa", "tera", "unilora", "vblora")
"""One for each way that an update is made: of the kernel, of factors, of what layers share."""


@pytest.mark.parametrize("name", quick_only((), KINDS))
def test_one_adapter_in_two_halves_is_its_merge(name):
    one = term(name)
    expected = jax.jit(one.adapter.merge)(one.variables)
    halves = merged([one._replace(weight=0.25), one._replace(weight=0.75)])
    assert_close(halves, expected)
    alone = merged([one])
    assert all(map(jnp.array_equal, jax.tree.leaves(alone), jax.tree.leaves(expected)))
    other = merged([one._replace(weight=0.5)])
    differs = [
        float(jnp.max(jnp.abs(a - b)))
        for a, b in zip(*map(jax.tree.leaves, (other, alone)), strict=True)
    ]
    assert max(differs) > 1e-3


@pytest.mark.parametrize("name", quick_only((), ("full", "hira", "ia3", "tera")))
def test_an_adapter_less_itself_is_the_base_to_the_bit(name):
    one = term(name)
    found = merged([one, one._replace(weight=-1.0)])
    for name, leaf in named(one.variables["params"]).items():
        assert jnp.array_equal(named(found)[name], leaf), name


def test_adapters_of_several_methods_add_their_updates_and_not_their_d():
    first, second = term("vera"), term("hira", -0.5, seed=2)
    start = q_proj(first.variables["params"])
    parts = [w * (q_proj(jax.jit(a.merge)(v)) - start) for w, a, v in (first, second)]
    within(np.abs(q_proj(merged([first, second])) - start - sum(parts)).max(), 2e-6)
    other = term("vera", seed=3)
    summed = jax.tree.map(jnp.add, first.variables["d"], other.variables["d"])
    of_d = jax.jit(first.adapter.merge)({**first.variables, "d": summed})
    assert np.abs(q_proj(of_d) - q_proj(merged([first, other]))).max() > 1e-2


def test_two_loras_are_the_lora_of_their_factors_beside_each_other():
    with jax.enable_x64(True):
        params = base(jnp.float64)
        terms = [term("lora", 0.7, 1, params), term("lora", -1.3, 2, params, rank=2)]
        for layer in kernel_layers(terms):
            own = [v["d"]["layers"]["self_attn"][layer.path[-1]]["lora"] for _, _, v in terms]
            scales = [w * a.method.alpha / a.method.rank for w, a, _ in terms]
            for index in ((0,), (1,)):
                left = np.concatenate(
                    [s * wide(d["a"][index]) for s, d in zip(scales, own, strict=True)], axis=1
                )
                right = np.concatenate([wide(d["b"][index]) for d in own], axis=0)
                found = delta(terms, layer, index)
                assert found.dtype == jnp.float64
                within(np.abs(found - left @ right).max(), 1e-12)
                assert np.abs(found - delta(terms, layer, (1 - index[0],))).max() > 1e-2
        whole = decompose(terms, 6)
        within(whole.total().error, 1e-10)
        assert decompose(terms, 5).total().error > 1e-3


@pytest.mark.parametrize("name", quick_only(("vera",), ("hira", "mora", "tera", "unilora", "vera")))
def test_the_error_is_the_tail_of_the_singular_values(name):
    one = term(name)
    found = decompose([one], 16)
    for rank in (3, 16):
        adapter, d = found.lora(rank)
        assert adapter.method.scale == 1
        lora = Term(1.0, adapter, {"params": one.variables["params"], "frozen": {}, "d": d})
        squares = []
        places = [(each, index) for each in found.layers for index in np.ndindex(*each.stack)]
        for error, (layer, index) in zip(found.errors(rank), places, strict=True):
            whole = np.asarray(delta([one], layer, index), np.float64)
            tail = np.linalg.svd(whole, compute_uv=False)[rank:]
            lost = np.linalg.norm(whole - np.asarray(delta([lora], layer, index), np.float64))
            norm = np.linalg.norm(whole)
            within(abs(error.error - np.linalg.norm(tail) / norm), 1e-9)
            within(abs(error.error - lost / norm), 1e-6)
            within(abs(1 - error.share - error.error**2), 1e-12)
            assert (error.layer, error.norm) == (f"{layer.name}{list(index)}", pytest.approx(norm))
            squares.append((lost**2, norm**2))
        lost, norm = np.sum(squares, axis=0)
        within(abs(found.total(rank).error - np.sqrt(lost / norm)), 1e-6)
    v_proj = {layer.name: layer for layer in found.layers}["layers/self_attn/v_proj"]
    assert min(v_proj.kernel_shape) == 16
    full = [e.error for e in found.errors(16) if "v_proj" in e.layer]
    assert full == [0.0, 0.0]


@pytest.mark.long
def test_dora_less_itself_is_the_base_to_a_rounding():
    """XLA may contract the multiply and the add of one of two equal updates."""
    one = term("dora")
    found = merged([one, one._replace(weight=-1.0)])
    assert_close(found, one.variables["params"], 1e-7)
    for layer in kernel_layers([one]):
        assert not np.any(delta([one, one._replace(weight=-1.0)], layer, (1,)))


@pytest.mark.long
def test_a_quantised_base_gives_the_sum_on_its_plain_weights():
    params = base()
    for own in params["layers"]["self_attn"].values():
        own["kernel"] = quantize.quantize_kernel(own["kernel"], "int8", block=16)
    one, two = term("lora", 0.5, params=params), term("lora", 0.5, params=params)
    assert_close(merged([one, two]), one.adapter.merge(one.variables))


@pytest.mark.parametrize("name", sorted(NOT_MERGEABLE))
def test_a_method_without_an_update_of_weights_is_refused_by_name(name):
    with pytest.raises(NotMergeableError, match=f"{name} has no update of weights"):
        merged([Term(1.0, adapter_of(name), {})])


def test_what_no_lora_holds_is_refused_by_name():
    for name, path in (("ia3", "q_proj/bias"), ("ln_tuning", "scale"), ("full", "embedding")):
        with pytest.raises(ValueError, match=f"{name} changes .*{path}.*no LoRA"):
            require_rank([term(name)], 4)


def test_what_cannot_be_added_is_refused():
    one = term("lora")
    with pytest.raises(ValueError, match="no adapter to add"):
        merged([])
    with pytest.raises(ValueError, match="weight nan of lora"):
        merged([one._replace(weight=float("nan"))])
    for rank, text in ((0, "rank 0; it must be at least 1"), (17, "rank 17, but the kernel")):
        with pytest.raises(ValueError, match=text):
            require_rank([one], rank)
    params = {**one.variables["params"], "embed": {"embedding": jnp.ones((64, 32))}}
    with pytest.raises(ValueError, match="adapter 2 is of a base with fingerprint"):
        merged([one, one._replace(variables={**one.variables, "params": params})])
    same = jax.tree.map(jnp.copy, one.variables["params"])
    require_terms([one, one._replace(variables={**one.variables, "params": same})])
    with pytest.raises(ValueError, match="ranks from 1 to 2"):
        decompose([one], 2).lora(3)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), one.variables["d"])
    with pytest.raises(ValueError, match="has NaN or infinity"):
        decompose([one._replace(variables={**one.variables, "d": broken})], 2)
