import jax.numpy as jnp
import pytest

from tera_jax.methods import tera
from tera_jax.methods.tera import TeRA
from tera_jax.network.tensorization import Tensorization
from tera_jax.random import seed_key

KEY = seed_key(0, "test")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zero_init_mode": 0}, "zero_init_mode 0"),
        ({"gain": 0.0}, "gain 0.0"),
        ({"num_modes": 0}, "num_modes 0"),
        ({"tensorizations": ("4|4", "2x2|4")}, "two tensorizations"),
        ({"tensorizations": ("4|1",)}, "mode 1"),
        (
            {"structure": "hadamard_factor", "init": "identity"},
            "structure 'hadamard_factor' with init 'identity'.*; set one",
        ),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TeRA(**fields)


def test_a_zero_beyond_the_order_is_refused():
    with pytest.raises(ValueError, match=r"zero_init_mode 4, but 6\|2x4 has 3 vectors"):
        TeRA(tensorizations=("6|2x4",), zero_init_mode=4).tensorization((6, 8))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("96:80|2x4", r"96:80\|2x4 has rank 80 for mode 96; write 96 for 96:80, or"),
        ("2x4|96:8", r"2x4\|96:8 has rank 8 for mode 96"),
        ("262|2x4", r"262\|2x4: no fast transform .* 131 .*; .* by setting structure to 'dense'"),
    ],
)
def test_schemes_without_a_fast_factor_are_refused(text, message):
    scheme = Tensorization.parse(text)
    config = TeRA(tensorizations=(text,), structure="hadamard_factor")
    for refused in (
        lambda: config.tensorization(scheme.shape),
        lambda: tera.init_frozen(KEY, scheme, config),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    dense = TeRA(tensorizations=(text,))
    assert dense.tensorization(scheme.shape) == scheme


def test_a_hadamard_core_asks_for_the_factors_that_have_transforms():
    """A core has the prime factors of its modes: where those have transforms, so has it."""
    for text, message in (("262|2x4", "no fast transform"), ("262:6|2x4", "rank 6 for mode 262")):
        scheme = Tensorization.parse(text)
        config = TeRA(tensorizations=(text,), structure="hadamard")
        for refused in (
            lambda config=config, scheme=scheme: config.tensorization(scheme.shape),
            lambda config=config, scheme=scheme: tera.init_frozen(KEY, scheme, config),
        ):
            with pytest.raises(ValueError, match=message):
                refused()
    few = TeRA(tensorizations=("61x2|2x4",), structure="hadamard")
    assert few.tensorization((122, 8)).core_shape == (122, 8)


def test_a_fast_core_of_another_scheme_is_refused():
    scheme = Tensorization.parse("6|2x4")
    frozen = tera.init_frozen(KEY, scheme, TeRA(structure="hadamard"))
    frozen["core"][0] = jnp.ones(5)
    with pytest.raises(ValueError, match=r"\(5, 8\).* do not fit tensorization 6\|2x4"):
        tera.delta_w(frozen, tera.init_d(scheme, TeRA()), scheme)


def test_signs_in_place_of_a_narrow_factor_are_refused():
    scheme = Tensorization.parse("6|2x4")
    frozen = tera.init_frozen(KEY, scheme, TeRA())
    frozen["factors"][0] = jnp.ones(6)
    with pytest.raises(ValueError, match=r"do not fit tensorization 6\|2x4"):
        tera.delta_w(frozen, tera.init_d(scheme, TeRA()), scheme)


def test_arrays_that_do_not_fit_the_scheme_are_refused():
    scheme = Tensorization.parse("6|2x4")
    frozen = tera.init_frozen(KEY, scheme, TeRA())
    with pytest.raises(ValueError, match=r"do not fit tensorization 6\|4x2"):
        tera.delta_w(frozen, tera.init_d(scheme, TeRA()), Tensorization.parse("6|4x2"))
