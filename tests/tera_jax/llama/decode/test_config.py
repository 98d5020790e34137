import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tera_jax.llama import GenerationConfig
from tera_jax.llama.decode.config import penalized, without_repeats


def test_only_what_would_complete_an_n_gram_is_banned():
    tokens_BS = jnp.asarray([[7, 1, 2, 3, 1, 2, 0], [1, 2, 5, 1, 2, 4, 1]], jnp.int32)
    scores_BV = jnp.zeros((2, 8))

    def banned(first, end, size):
        found = without_repeats(scores_BV, tokens_BS, jnp.asarray(first), jnp.asarray(end), size)
        return [np.flatnonzero(np.isneginf(row)).tolist() for row in found]

    assert banned([1, 0], [6, 5], 3) == [[3], [5]]
    assert banned([1, 0], [6, 7], 2) == [[3], [2]]
    assert banned([1, 0], [6, 7], 1) == [[1, 2, 3], [1, 2, 4, 5]]
    assert banned([4, 3], [6, 5], 3) == [[], []]  # the n-gram lies before the row
    assert banned([5, 4], [6, 5], 3) == [[], []]  # fewer tokens than n - 1
    assert banned([0, 0], [7, 7], 9) == [[], []]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"num_beams": 0}, "num_beams=0 must be at least 1"),
        ({"top_k": -1}, "top_k=-1 must not be negative"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size=-1 must not be negative"),
        (
            {"temperature": 0.0},
            "temperature=0.0 must be above 0 and finite; do_sample=False is greedy",
        ),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        ({"do_sample": True, "num_beams": 2}, "do_sample with num_beams=2 is not offered"),
    ],
)
def test_what_cannot_be_decoded_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**options)


def test_the_penalty_on_repeats_is_that_of_transformers_on_the_tokens_of_a_row():
    tokens_BS = np.array([[7, 1, 2, 3, 1, 2, 0], [1, 2, 5, 1, 2, 4, 1]], np.int32)
    scores_BV = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    first, end = [1, 0], [6, 3]  # what stands outside is not of the row

    arrays = map(jnp.asarray, (scores_BV, tokens_BS, first, end))
    found = penalized(*arrays, 1.3)
    penalty = transformers.RepetitionPenaltyLogitsProcessor(1.3)
    for row in range(2):
        text = torch.tensor(tokens_BS[row, first[row] : end[row]].astype(np.int64))[None]
        expected = penalty(text, torch.tensor(scores_BV[row : row + 1].copy()))[0].numpy()
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)
        assert not np.allclose(expected, scores_BV[row])
