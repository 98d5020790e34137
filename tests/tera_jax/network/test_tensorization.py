import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.network.tensorization import Tensorization, balanced_factors, fold, propose, unfold


def test_parse_reads_modes_and_ranks():
    scheme = Tensorization.parse("4096:128|8x8x8:4x8")
    assert scheme.in_modes == (4096,)
    assert scheme.in_ranks == (128,)
    assert scheme.out_modes == (8, 8, 8, 8)
    assert scheme.out_ranks == (8, 8, 4, 8)
    assert scheme.shape == (4096, 4096)
    assert scheme.num_trainable == 128 + 8 + 8 + 4 + 8
    assert scheme.max_rank == 128
    assert (scheme.order, scheme.split) == (5, 1)


@pytest.mark.parametrize("text", ["4096|8x8x8x8", "4096:128|8x8x8:4x8", "2x2|3", "24x24|12x16"])
def test_text_survives_a_round_trip(text):
    assert str(Tensorization.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4096", "not of the form"),
        ("4096|8|8", "not of the form"),
        ("4096|8x", "not of the form"),
        ("4096|-8", "not of the form"),
        ("4096|1x8", "mode 1 on the output side"),
        ("16:17|8", "rank 17 of mode 16"),
        ("16:0|8", "rank 0 of mode 16"),
    ],
)
def test_bad_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as error:
        Tensorization.parse(text)
    assert text in str(error.value)


def test_fold_is_row_major_and_unfold_its_inverse():
    scheme = Tensorization.parse("2x3|5x2")
    matrix = jnp.arange(60.0).reshape(6, 10)
    tensor = fold(matrix, scheme)
    for i in np.ndindex(2, 3, 5, 2):
        assert tensor[i] == matrix[i[0] * 3 + i[1], i[2] * 2 + i[3]]  # Eq. 1
    assert jnp.array_equal(unfold(tensor, scheme.split), matrix)
    assert not jnp.array_equal(unfold(tensor.swapaxes(0, 1), scheme.split), matrix)


def test_fold_refuses_modes_that_do_not_multiply_out():
    with pytest.raises(ValueError, match=r"2x3\|5x2 folds a matrix \(6, 10\), not \(6, 12\)"):
        fold(jnp.zeros((6, 12)), Tensorization.parse("2x3|5x2"))


@pytest.mark.parametrize("split", [0, 4])
def test_unfold_refuses_a_split_without_two_sides(split):
    with pytest.raises(ValueError, match=f"split {split}"):
        unfold(jnp.zeros((2, 2, 2, 2)), split)


@pytest.mark.parametrize(
    ("shape", "parts", "side", "expected"),
    [
        ((4096, 4096), 4, "out", "4096|8x8x8x8"),
        ((4096, 1024), 4, "out", "4096|4x4x8x8"),
        ((576, 576), 2, "out", "576|24x24"),
        ((576, 192), 2, "out", "576|12x16"),
        ((4096, 1024), 2, "in", "64x64|1024"),
        ((5, 13), 3, "out", "5|13"),
        ((4096, 4096), 4, "longer", "4096|8x8x8x8"),
        ((4096, 11008), 4, "longer", "4096|2x43x8x16"),
        ((11008, 4096), 4, "longer", "2x43x8x16|4096"),
        ((4096, 1024), 4, "longer", "8x8x8x8|1024"),
        ((576, 1536), 5, "longer", "576|4x8x3x4x4"),
        ((96, 40), 3, "longer", "4x4x6|40"),  # a transform of one Kronecker factor
        ((302, 151), 2, "longer", "2x151|151"),  # none at all
        ((40, 192), 1, "longer", "40|192"),
    ],
)
def test_propose_splits_one_side_into_near_equal_modes(shape, parts, side, expected):
    assert str(propose(*shape, parts, side)) == expected


def test_balanced_factors_have_the_least_sum_of_all_factorisations():
    def factorisations(number, parts, least=2):
        if parts == 1:
            return [(number,)] if number >= least else []
        return [
            (first, *rest)
            for first in range(least, number + 1)
            if number % first == 0
            for rest in factorisations(number // first, parts - 1, first)
        ]

    for number in range(2, 200):
        for parts in (1, 2, 3, 4):
            every = factorisations(number, parts)
            if every:
                assert sum(balanced_factors(number, parts)) == min(map(sum, every))
