import math

import numpy as np

from tera_jax.network.contraction_order import (
    NARROW,
    contraction_order,
    ends_with_input,
    groups,
    halves,
    multiplied,
    pairs,
)
from tera_jax.network.tensorization import Tensorization


def test_which_networks_end_with_their_input():
    for text, expected in (
        ("4096|8x8x8x8", True),
        ("128:96|8x16", True),
        ("64|8x8", False),  # narrow
        ("8x8|4096", False),
        ("4096|4096", True),
        ("64x64|4096", False),
        ("4096|8:4x512", False),  # the output's first mode is enlarging, and comes last
    ):
        scheme = Tensorization.parse(text)
        assert ends_with_input(scheme.ranks, scheme.modes, scheme.split) is expected, text


def test_groups_cover_every_mode_once_and_stay_narrow():
    assert groups((4096, 8, 8, 8, 8), (4096, 8, 8, 8, 8)) == [(0, 1), (1, 3), (3, 5)]
    assert groups((576, 24, 24), (576, 24, 24)) == [(0, 1), (1, 2), (2, 3)]
    random = np.random.default_rng(0)
    for _ in range(50):
        modes = random.integers(2, 100, random.integers(1, 12)).tolist()
        ranks = [int(random.integers(1, mode + 1)) for mode in modes]
        found = groups(ranks, modes)
        assert [i for start, stop in found for i in range(start, stop)] == list(range(len(modes)))
        for start, stop in found:
            assert stop == start + 1 or math.prod(modes[start:stop]) <= NARROW


def test_halves_are_the_smallest_that_a_kernel_takes():
    assert halves([(2, 2), (43, 43), (8, 8), (16, 16)]) == 2
    assert halves([(2, 2), (43, 43), (8, 8), (16, 16)], last=128) == 2
    assert halves([(2, 2), (43, 43), (8, 8), (16, 16)], last=16) is None  # 688 before it
    assert halves([(4, 4), (4, 4), (4, 4)]) == 1
    assert halves([(4, 4), (4, 4), (4, 4)], last=4) == 2
    assert halves([(128, 128), (8, 8)]) is None  # wide
    assert halves([(8, 8)]) is None
    assert multiplied([(2, 3), (4, 5)]) == (8, 15)


def test_the_least_enlarging_comes_first_and_of_equal_ones_the_smaller():
    assert pairs((4096, 8, 8, 8, 8), (4096, 8, 8, 8, 8)) == [(4096, 4096), (64, 64), (64, 64)]
    assert contraction_order([(4096, 4096), (64, 64), (64, 64)]) == [2, 1, 0]
    assert contraction_order([(8, 32), (96, 24), (16, 16)]) == [1, 2, 0]
