"""ΔW in float64: beside float32's, of its own precision, and of the rank that the method has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import quantize
from tera_jax.adapters import combine
from tera_jax.adapters.factory import make
from tera_jax.analysis import spectrum, subspaces, theorems
from tera_jax.analysis.updates import require_updates, updates
from tera_jax.methods import TABLE, NotMergeableError, TargetLayer
from tera_jax.methods.tera import TeRA
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.adapters.test_combine import LINEAR, NOT_MERGEABLE, adapter_of, base, term

METHODS = sorted(set(TABLE) - NOT_MERGEABLE - {"full", "ln_tuning"})
QUICK = ("lora", "tera", "vera")
SCHEMES = (
    *("32|4x8", "32|2x2x8", "4x8|32", "4x8|4x8", "2x2x2x2x2|2x2x2x2x2"),
    *("32:8|32", "32|4:2x8", "4x8:2|32", "32:16|4:3x8:4", "2x4x4|8:1x4"),
)


@pytest.mark.parametrize("name", quick_only(QUICK, METHODS))
def test_every_method_gives_float64_from_the_functions_of_float32(name):
    _, adapter, variables = term(name)
    found = list(updates(adapter, variables))
    assert [each.place for each in found] == [(0,), (1,), (0,), (1,)]
    assert [each.layer.path[-1] for each in found] == ["q_proj", "q_proj", "v_proj", "v_proj"]
    for each in found:
        layer = next(layer for layer in LINEAR if layer.path == each.layer.path)
        narrow = combine.delta([combine.Term(1.0, adapter, variables)], layer, each.place)
        size = np.abs(each.delta_IO).max()
        assert each.delta_IO.dtype == each.kernel_IO.dtype == np.float64
        assert size > 1e-3
        within(np.abs(each.delta_IO - np.asarray(narrow)).max(), 1e-5 * size)
        assert not np.array_equal(each.delta_IO, each.delta_IO.astype(np.float32))


@pytest.mark.parametrize("text", quick_only(("32|4x8", "4x8|4x8", "4x8:2|32"), SCHEMES))
def test_theorem_1_holds_for_ten_schemes(text):
    random = np.random.default_rng(3)
    layer = TargetLayer(("q_proj",), (32, 32))
    adapter = make("tera", TeRA(tensorizations=(text,), init="normal"), (layer,))
    params = {"q_proj": {"kernel": jnp.asarray(random.standard_normal((32, 32)), jnp.float32)}}
    frozen = jax.jit(adapter.init_frozen)(params)

    def trained(leaf):  # the one that starts at zero is smaller than the others, which stay near 1
        return jnp.asarray(leaf + 0.3 * random.standard_normal(leaf.shape), jnp.float32)

    d = jax.tree.map(trained, adapter.init_d(params, frozen))
    (found,) = updates(adapter, {"params": params, "frozen": frozen, "d": d})
    values = spectrum.singular_values(found.delta_IO)
    scheme = adapter.method.scheme(layer)
    bound = theorems.rank_bound(scheme.in_ranks, scheme.out_ranks)
    # 32 eps of float64 is 7e-15; a bound below 32 shows as a fall of the singular values.
    assert spectrum.rank(values, 1e-12) <= bound
    if bound < 32:
        assert spectrum.rank(values, 1e-12) == bound
        rounded = found.delta_IO.astype(np.float32)
        assert spectrum.rank(spectrum.singular_values(rounded), 1e-12) == 32


def test_a_lora_of_rank_8_on_a_base_in_bfloat16_has_rank_8():
    params = base(jnp.bfloat16)
    _, adapter, variables = term("lora", params=params, rank=8)
    merged = jax.jit(adapter.merge)(variables)["layers"]["self_attn"]["q_proj"]["kernel"]
    for each in updates(adapter, variables):
        values = spectrum.singular_values(each.delta_IO)
        shape = each.delta_IO.shape
        for tolerance in (1e-12, spectrum.float32_tolerance(shape)):
            assert spectrum.rank(values, tolerance) == 8
        if each.layer.path[-1] == "q_proj":  # what is never done: rounded weights are of full rank
            rounded = np.asarray(merged[each.place], np.float64) - each.kernel_IO
            assert spectrum.rank(spectrum.singular_values(rounded), 1e-12) > 24


def test_an_update_of_zero_has_no_intruders_and_a_planted_one_has_one():
    random = np.random.default_rng(0)
    kernel = random.standard_normal((24, 24))
    kernel += 5 * np.diag(np.arange(24, 0, -1))  # values far apart, so that directions hold still
    epsilons = (0.3, 0.6, 0.9)
    none = subspaces.similarities(kernel, kernel, 10)
    assert subspaces.intruders(none, epsilons) == [0, 0, 0]
    planted = 1e4 * np.outer(np.ones(24), random.standard_normal(24))
    found = subspaces.similarities(kernel, kernel + planted, 1)
    assert subspaces.intruders(found, (0.6, 0.9)) == [1, 1]


def test_a_quantised_kernel_is_what_its_codes_stand_for():
    params = base()
    coded = quantize.quantize(params, "int8", 8)
    plain = quantize.dequantize(coded)["layers"]["self_attn"]["q_proj"]["kernel"]
    _, adapter, variables = term("hira", params=coded)
    found = next(iter(updates(adapter, variables)))
    assert np.array_equal(found.kernel_IO, np.asarray(plain[0], np.float64))
    before = base()["layers"]["self_attn"]["q_proj"]["kernel"]
    assert not np.array_equal(found.kernel_IO, np.asarray(before[0], np.float64))


def test_methods_without_an_update_of_kernels_are_refused():
    for name, error in (("toplora", NotMergeableError), ("full", ValueError)):
        with pytest.raises(error, match=f"{name} "):
            require_updates(adapter_of(name))
    _, adapter, variables = term("lora")
    bad = jax.tree.map(lambda leaf: leaf * jnp.float32("nan"), variables["d"])
    with pytest.raises(ValueError, match=r"q_proj' at \[0\] has NaN"):
        list(updates(adapter, {**variables, "d": bad}))


def test_nothing_is_computed_for_layers_that_are_not_wanted():
    _, adapter, variables = term("lora")
    whole = [each for each in updates(adapter, variables) if each.place == (0,)]
    last = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), variables["d"])
    found = list(updates(adapter, {**variables, "d": last}, lambda layer: layer == 0))
    assert [each.place for each in found] == [(0,), (0,)]
    for each, same in zip(found, whole, strict=True):
        assert np.array_equal(each.delta_IO, same.delta_IO)
    with pytest.raises(ValueError, match=r"\[1\] has NaN"):
        list(updates(adapter, {**variables, "d": last}, lambda layer: layer == 1))
