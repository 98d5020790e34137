"""Spectral norms of tensors for which they are known."""

import numpy as np
import pytest

from tera_jax.analysis.spectral_norm import spectral_norm
from tests.margins import close


def test_of_a_matrix_it_is_the_largest_singular_value():
    matrix = np.random.default_rng(0).standard_normal((7, 5))
    close(spectral_norm(matrix).value, np.linalg.norm(matrix, 2), rtol=1e-10, atol=0)
    close(spectral_norm(matrix[0]).value, np.linalg.norm(matrix[0]), rtol=1e-10, atol=0)


def test_of_an_outer_product_it_is_the_product_of_the_lengths():
    random = np.random.default_rng(0)
    vectors = [random.standard_normal(size) for size in (3, 4, 5, 2)]
    tensor = np.einsum("a,b,c,d->abcd", *vectors)
    found = spectral_norm(tensor)
    close(found.value, np.prod([np.linalg.norm(v) for v in vectors]), rtol=1e-10, atol=0)
    close(np.einsum("abcd,a,b,c,d->", tensor, *found.vectors), found.value, rtol=1e-10, atol=0)


def test_of_orthogonal_terms_it_is_the_largest_whatever_the_start():
    tensor = np.zeros((4, 4, 4))
    tensor[range(4), range(4), range(4)] = [1.0, 5.0, -7.0, 2.0]
    close(spectral_norm(tensor, seed=3).value, 7.0, rtol=1e-10, atol=0)


def test_zero_and_what_is_no_tensor():
    assert spectral_norm(np.zeros((2, 3, 2))).value == 0
    for wrong in (np.array(1.0), np.zeros((0, 2)), np.full((2, 2), np.inf)):
        with pytest.raises(ValueError, match="no tensor of finite entries"):
            spectral_norm(wrong)
