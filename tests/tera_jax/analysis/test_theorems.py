"""The paper's bounds, beside the truth."""

import math

import numpy as np
import pytest

from tera_jax.analysis import spectrum, theorems
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.analysis.nearest import SCHEMES, distance, drawn, least, made

WANTED = ("random", "low rank", "made")


def wanted(kind, network, random):
    shape = len(network.left_JR), network.right_SO.shape[1]
    if kind == "made":
        ranks = network.in_ranks + network.out_ranks
        return made(network, [random.standard_normal(rank) for rank in ranks])
    if kind == "low rank":
        return random.standard_normal((shape[0], 1)) @ random.standard_normal((1, shape[1]))
    return random.standard_normal(shape)


@pytest.mark.parametrize("seed", quick_only(range(6), range(200)))
def test_eq_9_holds_for_both_variants(seed):
    random = np.random.default_rng(seed)
    network = drawn(random, *SCHEMES[seed % len(SCHEMES)], orthogonal=bool(seed % 2))
    target = wanted(WANTED[seed % 3], network, random)
    bound = theorems.approximation_bound(target, network)
    whole = float(np.sum(target**2))
    # The d that the bound comes with are that near; the nearest are nearer.
    near = distance(target, network, bound.vectors)
    truth = least(target, network, random, bound.vectors)
    assert truth <= near + 1e-9 * whole
    assert near <= (bound.outside + bound.tight) * (1 + 1e-9) + 1e-9 * whole
    assert bound.tight <= bound.inside * (1 + 1e-12)
    assert truth >= bound.outside - 1e-9 * whole


@pytest.mark.parametrize("seed", quick_only(range(1), range(8)))
def test_the_z_that_is_printed_gives_no_bound(seed):
    """With factors of 0.3 times orthogonal ones it is below the truth each time."""
    random = np.random.default_rng(seed)
    network = drawn(random, *SCHEMES[1 + seed % 2], scale=0.3, orthogonal=True)
    target = wanted("random", network, random)
    printed = theorems.approximation_bound(target, network, "transposed")
    bound = theorems.approximation_bound(target, network)
    truth = least(target, network, random, bound.vectors)
    assert printed.total < truth <= bound.total


def test_an_update_that_the_network_can_make_has_a_bound_of_zero():
    random = np.random.default_rng(0)
    network = drawn(random, (4,), (2, 2))
    found = theorems.approximation_bound(wanted("made", network, random), network)
    within(found.total, 1e-9)
    assert theorems.approximation_bound(wanted("random", network, random), network).total > 1


def test_the_tight_bound_is_met_with_orthogonal_factors_and_a_core_of_signs():
    random = np.random.default_rng(0)
    network = drawn(random, (4,), (2, 2), orthogonal=True)
    network = network._replace(core_RS=np.sign(network.core_RS))
    target = wanted("random", network, random)
    bound = theorems.approximation_bound(target, network)
    truth = least(target, network, random, bound.vectors)
    within(abs(bound.outside + bound.tight - truth), 1e-6 * truth)


@pytest.mark.parametrize("scheme", [((4, 4), (16,)), ((2, 8), (4, 4)), ((16,), (16,))])
def test_no_update_has_more_than_the_rank_of_theorem_1(scheme):
    """Cut ranks show it; float64 rounds singular values that are zero to 1e-15 of the largest."""
    random = np.random.default_rng(0)
    network = drawn(random, *scheme)
    in_ranks = (*scheme[0][:-1], scheme[0][-1] // 2)
    count = math.prod(in_ranks)
    # The last mode is the fastest: of each run of its entries the first half stay.
    kept = np.arange(16).reshape(-1, scheme[0][-1])[:, : scheme[0][-1] // 2].ravel()
    left, core = network.left_JR[:, kept], network.core_RS[kept]
    cut = network._replace(left_JR=left, core_RS=core, in_ranks=in_ranks)
    ranks = in_ranks + cut.out_ranks
    update = made(cut, [1 + 0.3 * random.standard_normal(rank) for rank in ranks])
    found = spectrum.rank(spectrum.singular_values(update), 1e-12)
    assert found == theorems.rank_bound(in_ranks, cut.out_ranks) == count == 8
    whole = made(network, [1 + 0.3 * random.standard_normal(r) for r in (*scheme[0], *scheme[1])])
    assert spectrum.rank(spectrum.singular_values(whole), 1e-12) == 16


def test_the_counts_of_theorem_2():
    found = theorems.full_rank_counts((64, 64), (64, 64))
    assert found == (256, 8192, 8192, 8192 * 4096)
    assert theorems.full_rank_counts((2,) * 12, (2,) * 12).tera == 48
    for modes in SCHEMES:
        counts = theorems.full_rank_counts(*modes)
        assert counts.tera <= counts.vera <= counts.lora
    with pytest.raises(ValueError, match="at least 2"):
        theorems.full_rank_counts((1, 4), (4,))


def test_what_does_not_fit_is_refused():
    network = drawn(np.random.default_rng(0), (4,), (2, 2))
    with pytest.raises(ValueError, match=r"make no update \(4, 5\)"):
        theorems.approximation_bound(np.ones((4, 5)), network)
    zero = network._replace(core_RS=np.where(np.eye(4, dtype=bool), 0, network.core_RS))
    with pytest.raises(ValueError, match="an entry of zero"):
        theorems.approximation_bound(np.ones((4, 4)), zero)
