import copy
import importlib.util
import sys

import lm_eval
import numpy as np
import pytest
import transformers
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import processors

from tera_jax.llama.decode.config import GenerationConfig
from tests.train.evaluation.lm_eval_tasks import LONG, TASKS, write_tasks
from train import export
from train.evaluation import lm_eval_model
from train.evaluation.lm_eval_model import TeraLM
from train.training import run as runs


@pytest.fixture(scope="module")
def ours(finished):
    return TeraLM(workdir=str(finished[1]), batch_size=4)


@pytest.fixture(scope="module")
def theirs(finished, tmp_path_factory):
    """The harness's own model on the merged export."""
    run, workdir = finished
    path = tmp_path_factory.mktemp("harness") / "hf"
    export.export(run, runs.restore_best(run, workdir)[1], "hf", path)
    return HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def task_path(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def call(model, kind, *arguments, **options):
    requests = [
        Instance(request_type=kind, doc={}, arguments=row, idx=place)
        for place, row in enumerate(arguments)
    ]
    return getattr(model, kind)(requests, disable_tqdm=True, **options)


def answers(model, task_path):
    """What a model says to each example of each task, and the harness's metrics."""
    manager = TaskManager(include_path=str(task_path), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model, tasks=[*TASKS], task_manager=manager, bootstrap_iters=0, num_fewshot=None
    )
    samples = {
        name: [sample["filtered_resps"] for sample in results["samples"][name]] for name in TASKS
    }
    return samples, results["results"]


def require_close(found, expected):
    """Log-likelihoods, and with them whether a continuation is greedy."""
    for a, b in zip(found, expected, strict=True):
        (a, *greedy), (b, *their_greedy) = np.atleast_1d(a).tolist(), np.atleast_1d(b).tolist()
        assert a == pytest.approx(b, abs=1e-3, rel=1e-6)
        assert greedy == their_greedy


def without_adapter(model):
    """The same model with the numbers that training started from, which are the base."""
    base = copy.copy(model)
    base.d = runs.init_d(model.run)
    return base


@pytest.mark.long
def test_every_kind_of_task_gives_what_the_merged_export_gives(ours, theirs, task_path):
    found, metrics = answers(ours, task_path)
    expected, their_metrics = answers(theirs, task_path)
    base, _ = answers(without_adapter(ours), task_path)
    for a, b, untrained in zip(
        *(said["tiny_choice"] for said in (found, expected, base)), strict=True
    ):
        require_close(a, b)
        assert abs(a[0][0] - untrained[0][0]) > 0.01
    for a, b in zip(found["tiny_rolling"], expected["tiny_rolling"], strict=True):
        require_close(a, b)
    assert abs(found["tiny_rolling"][1][0] - base["tiny_rolling"][1][0]) > 0.1
    assert found["tiny_answer"] == expected["tiny_answer"] != base["tiny_answer"]
    for name in TASKS:
        for metric, value in their_metrics[name].items():
            assert isinstance(value, str) or metrics[name][metric] == pytest.approx(value, rel=1e-4)


CONTEXTS = [
    ("", "the red cat"),  # after the prefix token
    ("the red ", "cat"),  # the space belongs to the continuation
    ("<|im_start|>user", " says"),
    ("<|im_start|>", "the"),
    ("", "<|im_start|>the"),  # begins with the prefix token itself
    (LONG, " And so on."),  # longer than the model's context
    ("the sea", " the sun one two " * 9),
]


@pytest.mark.parametrize("add_bos_token", [None, True, False])
def test_texts_are_tokenised_and_cut_as_by_the_harness(ours, theirs, add_bos_token, monkeypatch):
    expected_tokenizer = transformers.AutoTokenizer.from_pretrained(
        theirs.pretrained, **({} if add_bos_token is None else {"add_bos_token": add_bos_token})
    )
    monkeypatch.setattr(theirs, "tokenizer", expected_tokenizer)
    # The cache of lm_eval 0.4 gives a continuation that ends a longer one the wrong logits.
    monkeypatch.setattr(theirs, "logits_cache", False)
    for model in (ours, theirs):
        monkeypatch.setattr(model, "add_bos_token", add_bos_token)
    for text, _ in CONTEXTS:
        for special in (None, True, False):
            assert ours.tok_encode(text, special) == theirs.tok_encode(text, special)
    found = call(ours, "loglikelihood", *CONTEXTS)
    require_close(found, call(theirs, "loglikelihood", *CONTEXTS))
    texts = [(LONG,), ("the sun",), ("",)]
    rolling = call(ours, "loglikelihood_rolling", *texts)
    require_close(rolling, call(theirs, "loglikelihood_rolling", *texts))


def test_answers_end_at_stop_strings_and_long_prompts_lose_their_beginning(ours, theirs):
    prompts = ["the cat:", LONG, "<|im_start|>user\nsun"]
    free = {"max_gen_toks": 9}
    whole = call(ours, "generate_until", *((prompt, free) for prompt in prompts))
    assert whole == call(theirs, "generate_until", *((prompt, free) for prompt in prompts))
    stop = whole[0][3:6]
    rows = [(prompt, free | {"until": [stop, "none"]}) for prompt in prompts]
    rows += [(prompts[0], {"until": stop, "max_new_tokens": 3})]
    found = call(ours, "generate_until", *rows)
    assert found == call(theirs, "generate_until", *rows)
    assert found[0] == whole[0].partition(stop)[0] != whole[0]
    beams = [(prompt, free | {"num_beams": 2}) for prompt in prompts[:2]]
    found = call(ours, "generate_until", *beams)
    assert found == call(theirs, "generate_until", *beams)


def test_virtual_tokens_stand_before_prompts_and_leave_them_room(ours, monkeypatch):
    seen = []

    class Stub:
        def __init__(self, run, d, decoding):
            assert decoding.max_new_tokens == 200

        def __call__(self, prompts, progress):
            seen.extend(prompts)
            yield from ((row, [500 + row]) for row in reversed(range(len(prompts))))

    monkeypatch.setattr(lm_eval_model, "Generator", Stub)
    monkeypatch.setattr(runs.Run, "virtual_tokens", (50000, 50001))
    answers = call(
        ours, "generate_until", *[(text, {"max_gen_toks": 200}) for text in ("a", "b", LONG)]
    )
    assert answers == [ours.tokenizer.decode([500 + row]) for row in range(3)]
    assert seen[0] == [50000, 50001, *ours.tok_encode("a")]
    assert len(seen[2]) == 256 - 200
    assert seen[2] == [50000, 50001, *ours.tok_encode(LONG)[-54:]]


def test_generation_settings_are_those_of_the_harness(ours):
    def decoding(**options):
        return ours._decoding(options)

    assert decoding() == (GenerationConfig(max_new_tokens=256), [])
    greedy = decoding(do_sample=False, temperature=0.7, top_p=0.9, until="x")
    assert greedy == (GenerationConfig(max_new_tokens=256), ["x"])
    sampled = GenerationConfig(max_new_tokens=5, do_sample=True, temperature=0.5, top_k=3)
    assert decoding(temperature=0.5, top_k=3, max_tokens=5) == (sampled, [])
    penalized = GenerationConfig(max_new_tokens=256, repetition_penalty=1.2)
    assert decoding(repetition_penalty=1.2) == (penalized, [])
    with pytest.raises(ValueError, match=r"typical_p are not offered; choose from until"):
        decoding(typical_p=0.9)
    with pytest.raises(ValueError, match=r"temperature=0\.0 must be above 0"):
        decoding(do_sample=True, temperature=0.0)
    with pytest.raises(ValueError, match="max_gen_toks=256 leaves no room for a prompt in the"):
        call(ours, "generate_until", ("a", {}))


def test_no_text_ends_with_what_the_tokenizer_puts_after_one(ours, monkeypatch):
    plain, pair = ours.tok_encode("red cat"), ours._encode_pair("red", " cat")
    around = copy.deepcopy(ours.tokenizer)
    around.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="A $A B", special_tokens=[("A", 1), ("B", 2)]
    )
    monkeypatch.setattr(ours, "tokenizer", around)
    assert around("red cat")["input_ids"] == [1, *plain, 2]
    assert ours.tok_encode("red cat") == [1, *plain]
    assert ours._encode_pair("red", " cat") == ([1, *pair[0]], pair[1])
    assert ours.tok_encode("red cat", add_special_tokens=False) == plain


def test_a_special_token_can_end_an_answer(ours):
    inner = ours.tokenizer("red<|im_start|>blue", add_special_tokens=False)["input_ids"]
    assert lm_eval_model._text(inner, [], ours.tokenizer) == "redblue"
    assert lm_eval_model._text(inner, ["<|im_start|>"], ours.tokenizer) == "red"
    assert lm_eval_model._text(inner, ["lu", "", "e"], ours.tokenizer) == "r"


def test_the_model_is_registered_beside_those_of_the_harness():
    assert get_model("tera-jax") is TeraLM
    assert get_model("hf") is HFLM


@pytest.mark.parametrize("batch_size", ["auto", 0, -4])
def test_a_batch_size_must_be_a_number(finished, batch_size):
    with pytest.raises(ValueError, match=r"batch_size=.* must be a number, and a multiple of 1"):
        TeraLM(workdir=finished[1], batch_size=batch_size)


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    spec = importlib.util.spec_from_file_location("train.evaluation.again", lm_eval_model.__file__)
    with pytest.raises(ImportError, match=r"pip install 'tera-jax\[evaluate\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
