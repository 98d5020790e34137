from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import transformers

from tera_jax.llama import GenerationConfig, load_pretrained
from tera_jax.llama.decode.config import filtered
from tera_jax.llama.decode.generate import generate, left_pad
from tests.marks import quick_only

PROMPTS = [[5, 9, 23, 7, 11, 64, 3], [17, 40, 8]]


@pytest.fixture(autouse=True)
def _own_programs():
    """No test gets what another has compiled: it may have changed a function in it."""
    program.cache_clear()


@cache
def program(model, decoding, ends, pad_id, apply):
    """``generate``, traced once in a test; ``ends`` are the end and whether they are a list."""
    eos_id, listed = ends
    static = {"decoding": decoding, "pad_id": pad_id, "apply": apply}
    return jax.jit(partial(generate, model, eos_id=list(eos_id) if listed else eos_id, **static))


def decode(model, params, prompts, decoding, eos_id=None, pad_id=0, key_B=None, apply=None):
    listed = isinstance(eos_id, list)
    ends = (tuple(eos_id) if listed else eos_id, listed)
    run = program(model, decoding, ends, pad_id, apply)
    return np.asarray(run({"params": params}, *left_pad(prompts, pad_id), key_B=key_B))


def torch_decode(model, prompts, eos_id=None, **kwargs):
    """One prompt at a time, so that no padding can matter; filled with 0 to the longest answer."""
    rows = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            do_sample=False,
            eos_token_id=eos_id,
            pad_token_id=0,
            **kwargs,
        )
        rows.append(out[0, len(prompt) :].tolist())
    longest = kwargs["max_new_tokens"]
    return np.array([row + [0] * (longest - len(row)) for row in rows])


FAMILIES = ["llama-2", "llama-3.1", "tinyllama", "mistral", "qwen2", "qwen3"]
GREEDY = GenerationConfig(max_new_tokens=64)


def test_left_pad():
    tokens_BL, segment_ids_BL = left_pad([[1, 2, 3], [4]], pad_id=9, multiple=4)
    assert tokens_BL.tolist() == [[9, 1, 2, 3], [9, 9, 9, 4]]
    assert segment_ids_BL.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
    assert tokens_BL.dtype == segment_ids_BL.dtype == np.int32
    assert left_pad([[1] * 33], 0)[0].shape == (1, 64)
    for prompts in ([], [[1], []]):
        with pytest.raises(ValueError, match="at least one token each"):
            left_pad(prompts, 0)


@pytest.mark.parametrize(
    "tiny", quick_only(["llama-3", "qwen3"], ["llama-3", *FAMILIES]), indirect=True
)
def test_greedy_equals_transformers(tiny, load_torch):
    path, model, params = tiny
    ours = decode(model, params, PROMPTS, GREEDY)
    theirs = torch_decode(load_torch(path), PROMPTS, max_new_tokens=64)
    np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(ours, decode(model, params, [PROMPTS[0][::-1], PROMPTS[1]], GREEDY))


BEAMS = {
    "plain": {},
    "penalty": {"length_penalty": 0.9, "no_repeat_ngram_size": 4},
    "bigrams": {"no_repeat_ngram_size": 2, "length_penalty": 2.0},
    "early": {"early_stopping": True},
    "never": {"early_stopping": "never", "length_penalty": 1.5},
    "negative": {"length_penalty": -1.0, "early_stopping": "never"},
}


@pytest.mark.parametrize("family", quick_only(["mistral"], FAMILIES))
def test_beam_search_equals_transformers(tiny_path, load_torch, family):
    assert_same_beams(tiny_path(family), load_torch, BEAMS["penalty"])


@pytest.mark.parametrize("name", quick_only(["negative"], sorted(set(BEAMS) - {"penalty"})))
def test_each_option_of_beam_search_equals_transformers(tiny_path, load_torch, name):
    assert_same_beams(tiny_path("llama-3"), load_torch, BEAMS[name])


def assert_same_beams(path, load_torch, options):
    """With enough tokens that end a hypothesis that some do, early and late."""
    model, params = load_pretrained(path)
    options = {"num_beams": 4, "max_new_tokens": 24, **options}
    eos_id = list(range(3, 128, 11))
    prompts = [*PROMPTS, [9, 9, 9, 9, 9, 9], [60]]
    ours = decode(model, params, prompts, GenerationConfig(**options), eos_id)
    np.testing.assert_array_equal(ours, torch_decode(load_torch(path), prompts, eos_id, **options))
    one = decode(model, params, prompts, GenerationConfig(max_new_tokens=24), eos_id)
    assert not np.array_equal(ours, one)


def test_greedy_without_repeats_equals_transformers(tiny_path, load_torch):
    path = tiny_path("llama-3")
    model, params = load_pretrained(path)
    options = {"no_repeat_ngram_size": 2, "max_new_tokens": 32}
    ours = decode(model, params, PROMPTS, GenerationConfig(**options))
    np.testing.assert_array_equal(ours, torch_decode(load_torch(path), PROMPTS, **options))
    assert not np.array_equal(
        ours, decode(model, params, PROMPTS, GenerationConfig(max_new_tokens=32))
    )


def test_beams_without_an_end_run_to_the_last_token(tiny_path, load_torch):
    path = tiny_path("llama-3")
    model, params = load_pretrained(path)
    options = {"num_beams": 3, "max_new_tokens": 9}
    ours = decode(model, params, PROMPTS, GenerationConfig(**options))
    np.testing.assert_array_equal(ours, torch_decode(load_torch(path), PROMPTS, **options))
    assert (ours != 0).any(axis=0).all()


FILTERS = {
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.6},
    "all": {"temperature": 1.7, "top_k": 9, "top_p": 0.8},
    "one": {"top_p": 1e-6},
}


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS)
def test_filtered_logits_are_those_of_transformers(options):
    logits_BV = np.random.default_rng(0).normal(size=(8, 40)).astype(np.float32) * 2
    expected = torch.tensor(logits_BV)
    warpers = {
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
    }
    for name, value in options.items():
        expected = warpers[name](value)(None, expected)
    found = filtered(jnp.asarray(logits_BV), GenerationConfig(do_sample=True, **options))
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected.numpy()))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
    assert np.isfinite(found).sum() < logits_BV.size or options.keys() == {"temperature"}


@pytest.mark.parametrize("name", quick_only(["all"], FILTERS))
def test_sampled_tokens_have_the_filtered_distribution(tiny_path, name):
    """A chi-square test at 1e-3 of 4,000 first tokens; the seed is fixed."""
    model, params = load_pretrained(tiny_path("llama-3"))
    params = jax.tree.map(lambda leaf: leaf * 1.5, params)  # a distribution that is not flat
    decoding = GenerationConfig(do_sample=True, max_new_tokens=1, **FILTERS[name])
    key_B = jax.random.split(jax.random.key(0), 4000)
    tokens = decode(model, params, [PROMPTS[0]] * 4000, decoding, key_B=key_B)[:, 0]
    tokens_BL, segments_BL = left_pad(PROMPTS[:1], 0, multiple=1)
    logits_BLV, _ = model.apply({"params": params}, tokens_BL, segment_ids_BL=segments_BL)
    logits_V = np.asarray(filtered(logits_BLV[:, -1], decoding), np.float64)[0]
    probability_V = scipy.special.softmax(logits_V)
    counts_V = np.bincount(tokens, minlength=len(probability_V))
    assert counts_V[probability_V == 0].sum() == 0
    often = probability_V * 4000 >= 5  # the others are one class
    expected = np.append(probability_V[often], probability_V[~often].sum()) * 4000
    observed = np.append(counts_V[often], counts_V[~often].sum())
    if expected[-1] == 0:
        expected, observed = expected[:-1], observed[:-1]
    if len(expected) > 1:
        assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3
        assert scipy.stats.chisquare(observed, np.roll(expected, 1)).pvalue < 1e-3


def test_a_rows_draws_follow_from_its_key_alone(tiny_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    decoding = GenerationConfig(do_sample=True, max_new_tokens=12)
    key_B = jax.random.split(jax.random.key(1), 3)
    rows = decode(model, params, [PROMPTS[1], PROMPTS[0], PROMPTS[0]], decoding, key_B=key_B)
    alone = decode(model, params, [PROMPTS[0]], decoding, key_B=key_B[1:2])
    np.testing.assert_array_equal(rows[1], alone[0])
    assert not np.array_equal(rows[1], rows[2])
    with pytest.raises(ValueError, match="do_sample needs key_B"):
        decode(model, params, PROMPTS, decoding)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_unrolled_layers_have_a_cache_each(options, tiny_path):
    looped, params = load_pretrained(tiny_path("llama-3"))
    unrolled = looped.clone(unroll=True)
    decoding = GenerationConfig(max_new_tokens=4, **options)
    given = left_pad(PROMPTS, 0)
    programs = [
        jax.jit(partial(generate, model, decoding=decoding, eos_id=None, pad_id=0))
        .lower({"params": params}, *given)
        .compile()
        for model in (looped, unrolled)
    ]
    slots = given[0].shape[1] + 3 * decoding.num_beams
    config = looped.config
    one = f"{len(PROMPTS)},{slots},{config.num_kv_heads},{config.head_dim}]"
    assert [f"f32[{config.num_layers},{one}" in program.as_text() for program in programs] == [
        True,
        False,
    ]
    assert all(f"[{one}" in program.as_text() for program in programs)
    found = [program({"params": params}, *given) for program in programs]
    np.testing.assert_array_equal(*found)


def test_a_row_ends_at_eos_and_the_loop_with_the_last_row(tiny_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    free = decode(model, params, PROMPTS, GenerationConfig(max_new_tokens=16))
    end = int(free[0, 4])
    stop = free[0].tolist().index(end)
    assert end not in free[1]
    for eos_id in (end, (end, 127), [end]):
        ended = decode(
            model, params, PROMPTS, GenerationConfig(max_new_tokens=16), eos_id=eos_id, pad_id=99
        )
        assert ended[0].tolist() == [*free[0, : stop + 1].tolist(), *[99] * (15 - stop)]
        np.testing.assert_array_equal(ended[1], free[1])

    calls = []

    def counting(variables, *args, **kwargs):
        if kwargs["method"] == "hidden":
            jax.debug.callback(lambda: calls.append(1))
        return model.apply(variables, *args, **kwargs)

    decode(
        model, params, PROMPTS[:1], GenerationConfig(max_new_tokens=16), eos_id=end, apply=counting
    )
    jax.effects_barrier()
    assert len(calls) == stop + 1


def test_decodes_through_the_given_apply(tiny_path):
    model, params = load_pretrained(tiny_path("llama-3"))

    def interceptor(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        return -out if context.module.name == "v_proj" else out

    def adapted(variables, *args, **kwargs):
        with nn.intercept_methods(interceptor):
            return model.apply(variables, *args, **kwargs)

    negated = jax.tree.map_with_path(
        lambda path, leaf: -leaf if any("v_proj" in str(key) for key in path) else leaf, params
    )
    ours = decode(model, params, PROMPTS, GenerationConfig(max_new_tokens=8), apply=adapted)
    np.testing.assert_array_equal(
        ours, decode(model, negated, PROMPTS, GenerationConfig(max_new_tokens=8))
    )
    assert not np.array_equal(
        ours, decode(model, params, PROMPTS, GenerationConfig(max_new_tokens=8))
    )


REPEATS = [{}, {"num_beams": 3}, {"no_repeat_ngram_size": 2}]


@pytest.mark.parametrize("options", quick_only(REPEATS[2:], REPEATS))
def test_a_penalty_on_repeats_is_that_of_transformers(tiny_path, load_torch, options):
    path = tiny_path("llama-3")
    model, params = load_pretrained(path)
    options = {"repetition_penalty": 1.3, "max_new_tokens": 12, **options}
    ours = decode(model, params, PROMPTS, GenerationConfig(**options))
    np.testing.assert_array_equal(ours, torch_decode(load_torch(path), PROMPTS, **options))
    without = GenerationConfig(**{**options, "repetition_penalty": 1.0})
    assert not np.array_equal(ours, decode(model, params, PROMPTS, without))
