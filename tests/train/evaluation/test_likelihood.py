import copy

import jax
import numpy as np
import pytest
from tokenizers import processors

from train import data
from train.config import default, parse
from train.evaluation import likelihood
from train.evaluation.likelihood import (
    Question,
    choose,
    cut,
    label_questions,
    score,
    text_questions,
)
from train.training import run as runs
from train.training.steps import loss

PADDED = 96
RECORD = {
    "instruction": "Please choose the correct answer to the question: What is red?\n\n"
    "Answer1: the sun at night Answer2: a cat\n\nAnswer format: answer1/answer2",
    "output": "the correct answer is answer2",
    "answer": "answer2",
}


@pytest.fixture(scope="module")
def trained(finished):
    run, workdir = finished
    return run, runs.restore_best(run, workdir)[1]


def make_pairs(count, longest=50, seed=0):
    rng = np.random.default_rng(seed)

    def tokens(most):
        return rng.integers(3, 1000, rng.integers(1, most)).tolist()

    return [(tokens(longest), tokens(12)) for _ in range(count)]


def full_logprobs(run, d):
    """``f(tokens)``: log-probabilities after every token, one padded row, without merging."""

    @jax.jit
    def padded(variables, tokens_L):
        logits_BLV, _ = run.adapter.apply(run.model, variables, tokens_L[None])
        return jax.nn.log_softmax(logits_BLV[0])

    def logprobs(tokens):
        row = np.zeros(PADDED, np.int32)
        row[: len(tokens)] = tokens
        return np.asarray(padded(run.variables(d), row))[: len(tokens)]

    return logprobs


def by_hand(run, d, pairs):
    logprobs = full_logprobs(run, d)
    for context, continuation in pairs:
        context = [*run.virtual_tokens, *context]
        found_LV = logprobs([*context, *continuation])[len(context) - 1 : -1]
        logprob = found_LV[np.arange(len(continuation)), continuation].sum()
        yield logprob, bool((found_LV.argmax(axis=-1) == continuation).all())


def require_equal(run, d, pairs, **options):
    found = score(run, d, pairs, **options)
    for (logprob, greedy), likelihood_, pair in zip(
        by_hand(run, d, pairs), found, pairs, strict=True
    ):
        assert likelihood_.logprob == pytest.approx(logprob, abs=1e-3)
        assert likelihood_.greedy == greedy
        assert likelihood_.tokens == len(pair[1])
    return found


def test_likelihoods_are_those_of_all_logits_of_one_row_at_a_time(trained):
    run, d = trained
    pairs = make_pairs(19)
    found = require_equal(run, d, pairs)
    untrained = runs.init_d(run)
    base = score(run, untrained, pairs)
    moved = [abs(a.logprob - b.logprob) for a, b in zip(found, base, strict=True)]
    assert np.median(moved) > 0.1


def test_greedy_is_every_token_being_the_most_likely(trained):
    run, d = trained
    logprobs = full_logprobs(run, d)
    context = [9, 8, 7]
    best: list[int] = []
    for _ in range(3):  # not a power of two: the target that fills up must not count
        best.append(int(logprobs([*context, *best])[-1].argmax()))
    changed = [[*best[:place], best[place] + 1, *best[place + 1 :]] for place in range(3)]
    found = require_equal(run, d, [(context, best), *((context, other) for other in changed)])
    assert [likelihood_.greedy for likelihood_ in found] == [True, False, False, False]


def test_rows_do_not_depend_on_their_batch_or_on_the_order(trained):
    run, d = trained
    pairs = make_pairs(11, seed=1)
    together = score(run, d, pairs)
    for batch_size in (3, 16):
        alone = score(run, d, pairs[::-1], batch_size)[::-1]
        for a, b in zip(together, alone, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
            assert a[1:] == b[1:]
    assert score(run, d, []) == []


def test_logits_are_taken_a_few_at_a_time(trained, monkeypatch):
    run, d = trained
    pairs = make_pairs(3, seed=2)
    whole = score(run, d, pairs, batch_size=4)
    traces = likelihood._sums._cache_size()
    monkeypatch.setattr(loss, "_LOGITS_AT_ONCE", 4 * run.model.config.vocab_size * 3)
    parts = score(run, d, pairs, batch_size=4)
    assert likelihood._sums._cache_size() == traces + 1
    for a, b in zip(whole, parts, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
        assert a[1:] == b[1:]


def test_rows_of_one_shape_are_compiled_once(trained):
    run, d = trained
    score(run, d, [([5] * 33, [6] * 5)], batch_size=2)
    traces = likelihood._sums._cache_size()
    score(run, d, [([5] * length, [6] * 8) for length in range(32, 56)], batch_size=2)
    assert likelihood._sums._cache_size() == traces
    score(run, d, [([5] * 33, [6] * 9)], batch_size=2)
    assert likelihood._sums._cache_size() == traces + 1


def test_a_mesh_gives_the_same(trained, tiny_config):
    run, d = trained
    tiny_config.mesh.update(data=2, fsdp=2)
    sharded = runs.build(parse(tiny_config))
    pairs = make_pairs(6, seed=3)
    for a, b in zip(score(run, d, pairs), score(sharded, jax.device_get(d), pairs), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    with pytest.raises(ValueError, match="batch_size 6 must be a positive multiple of 4"):
        score(sharded, d, pairs, batch_size=6)


def test_virtual_tokens_stand_before_each_context(tiny_llama):
    config = default("prompt")
    config.model.update(path=str(tiny_llama), dtype="float32", remat="none")
    config.data.path = "none"
    run = runs.build(parse(config))
    d = run.adapter.init_d(run.params, run.frozen, seed=1)
    assert len(run.virtual_tokens) == 20
    pairs = make_pairs(5, seed=4)
    found = require_equal(run, d, pairs)
    changed = score(run, jax.tree.map(lambda x: 2 * x, d), pairs)
    assert all(abs(a.logprob - b.logprob) > 1e-3 for a, b in zip(found, changed, strict=True))
    score(run, d, [([5] * 256, [6])])  # the model's whole length is left to the row


def test_rows_that_cannot_be_scored_are_named(trained):
    run, d = trained
    whole = ([5] * 200, [6] * 57)
    assert score(run, d, [whole])[0].tokens == 57
    with pytest.raises(ValueError, match="row 1 has an empty context"):
        score(run, d, [([5], [6]), ([], [6])])
    with pytest.raises(ValueError, match="row 0 has an empty continuation"):
        score(run, d, [([5], [])])
    with pytest.raises(ValueError, match=r"row 1 has 257 tokens .* at most 256; shorten"):
        score(run, d, [whole, ([5] * 201, [6] * 57)])
    with pytest.raises(ValueError, match="batch_size 0 must be a positive"):
        score(run, d, [whole], batch_size=0)


def test_a_context_is_cut_to_the_room_that_the_continuation_leaves():
    assert cut([1, 2, 3, 4], [5, 6], limit=4) == [2, 3, 4]
    assert cut([1, 2], [5, 6], limit=4) == [1, 2]
    assert cut([1, 2], [5, 6], limit=1) == [2]


def test_the_choice_is_the_greatest_sum_or_the_greatest_mean(trained):
    run, d = trained
    context, choices = [5, 6, 7], [[8], [9, 10], [8]]
    logprobs = [row.logprob for row in score(run, d, [(context, ids) for ids in choices])]
    assert logprobs[0] > logprobs[1]
    same = Question([context] * 3, choices, [1, 1, 1], 0)
    longer = same._replace(lengths=[1, 1000, 1])
    other = Question([[5], [6, 6]], [[7], [7]], [2, 2], 0)
    found = choose(run, d, [same, longer, other], progress=True)
    assert [(choice.by_sum, choice.by_length) for choice in found[:2]] == [(0, 0), (0, 1)]
    assert found[0].logprobs == pytest.approx(logprobs, abs=1e-4)
    expected = [row.logprob for row in score(run, d, [([5], [7]), ([6, 6], [7])])]
    assert found[2].logprobs == pytest.approx(expected, abs=1e-4)
    assert found[2].by_sum == found[2].by_length == int(np.argmax(expected))


def test_labels_follow_the_prompt_of_generation(trained):
    run, _ = trained
    config = run.config.data
    (question,) = label_questions([RECORD], run.tokenizer, config)
    (prompt,) = data.encode_prompts([RECORD], run.tokenizer, config, inference=True)
    assert question.contexts == [prompt, prompt]
    assert len(prompt) == config.max_prompt
    texts = [run.tokenizer.decode(ids) for ids in question.choices]
    assert texts == ["the correct answer is answer1", "the correct answer is answer2"]
    (example,) = data.tokenize([RECORD], run.tokenizer, config)
    assert example.response == question.choices[1][: config.max_response]
    assert question.lengths == [29, 29]
    assert question.gold == 1


def test_special_tokens_at_either_end_of_a_text_are_never_scored(trained):
    """A tokenizer that puts tokens around a text, as some add EOS."""
    run, _ = trained
    around = copy.deepcopy(run.tokenizer)
    around.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="A $A B", special_tokens=[("A", 1), ("B", 2)]
    )
    assert around("red")["input_ids"] == [1, *run.tokenizer("red")["input_ids"], 2]
    (plain,) = text_questions([RECORD], run.tokenizer, limit=256)
    (found,) = text_questions([RECORD], around, limit=256)
    assert found.choices == plain.choices
    assert found.contexts == [[1, *context] for context in plain.contexts]
    config = run.config.data
    assert label_questions([RECORD], around, config) == label_questions(
        [RECORD], run.tokenizer, config
    )


def test_texts_are_tokenised_with_their_context(trained):
    run, d = trained
    (question,) = text_questions([RECORD], run.tokenizer, limit=256)
    context = "Question: What is red?\nAnswer:"
    assert question.contexts == [run.tokenizer(context)["input_ids"]] * 2
    for ids, text in zip(question.choices, (" the sun at night", " a cat"), strict=True):
        assert question.contexts[0] + ids == run.tokenizer(context + text)["input_ids"]
        assert run.tokenizer.decode(ids) == text
    assert question.lengths == [len("the sun at night"), len("a cat")]
    assert question.gold == 1
    (short,) = text_questions([RECORD], run.tokenizer, limit=6)
    assert short.contexts == [question.contexts[0][-3:], question.contexts[0][-5:]]
    (choice,) = choose(run, d, [question])
    assert len(choice.logprobs) == 2
