"""Ranks of matrices whose singular values are known."""

import numpy as np
import pytest

from tera_jax.analysis import spectrum
from tests.margins import close


def matrix(values, shape=(12, 9), seed=0):
    """One with these singular values."""
    random = np.random.default_rng(seed)
    left, right = (np.linalg.qr(random.standard_normal((n, n)))[0] for n in shape)
    return left[:, : len(values)] * values @ right[: len(values)]


def test_singular_values_are_those_that_were_given():
    close(
        spectrum.singular_values(matrix([5.0, 2.0, 1.0]))[:3], [5.0, 2.0, 1.0], rtol=1e-12, atol=0
    )


def test_a_rank_counts_what_is_above_the_tolerance():
    values = spectrum.singular_values(matrix([4.0, 1.0, 0.1, 1e-9]))
    assert [spectrum.rank(values, t) for t in (0.5, 0.1, 1e-3, 1e-12)] == [1, 2, 3, 4]
    assert spectrum.float32_tolerance((256, 100)) == 256 * 2.0**-23
    with pytest.raises(ValueError, match="tolerance is 1"):
        spectrum.rank(values, 1.0)


def test_a_lora_that_was_rounded_to_bfloat16_has_its_rank():
    """Its factors are; a difference of merged weights in bfloat16 would have full rank."""
    import ml_dtypes

    random = np.random.default_rng(0)
    a, b = (random.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((64, 8), (8, 48)))
    update = a.astype(np.float64) @ b.astype(np.float64)
    assert spectrum.rank(spectrum.singular_values(update), 1e-12) == 8
    base = random.standard_normal((64, 48)).astype(ml_dtypes.bfloat16)
    merged = (base.astype(np.float64) + 0.01 * update).astype(ml_dtypes.bfloat16)
    difference = merged.astype(np.float64) - base.astype(np.float64)
    assert spectrum.rank(spectrum.singular_values(difference), 1e-12) == 48


def test_ranks_without_a_tolerance():
    equal = spectrum.singular_values(matrix([2.0] * 7))
    close(spectrum.stable_rank(equal), 7.0, rtol=1e-10, atol=0)
    close(spectrum.entropy_rank(equal), 7.0, rtol=1e-10, atol=0)
    uneven = spectrum.singular_values(matrix([2.0, 1.0, 1.0]))
    close(spectrum.stable_rank(uneven), 1.5, rtol=1e-10, atol=0)
    close(spectrum.entropy_rank(uneven), 2 * 2**0.5, rtol=1e-10, atol=0)  # shares 1/2, 1/4, 1/4
    assert [spectrum.energy_rank(uneven, share) for share in (0.5, 0.7, 0.9)] == [1, 2, 3]
    assert spectrum.energy_rank(equal, 1.0) == 7
    zero = spectrum.singular_values(np.zeros((3, 3)))
    assert (spectrum.stable_rank(zero), spectrum.entropy_rank(zero)) == (0.0, 0.0)
    assert spectrum.energy_rank(zero, 0.9) == spectrum.rank(zero, 0.1) == 0


def test_drift_is_a_part_of_the_kernel():
    close(spectrum.drift(3 * np.ones((2, 2)), 4 * np.ones((2, 2))), 0.75, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="kernel is zero"):
        spectrum.drift(np.ones((2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"\(2, 2\) of a kernel \(2, 3\)"):
        spectrum.drift(np.ones((2, 2)), np.ones((2, 3)))


@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((0, 3)), np.full((2, 2), np.nan)])
def test_what_is_no_matrix_is_refused(wrong):
    with pytest.raises(ValueError, match=r"no matrix|NaN or infinity"):
        spectrum.singular_values(wrong)
