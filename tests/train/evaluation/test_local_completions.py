"""lm-evaluation-harness by its client of OpenAI's completions, and by our model, has one score."""

import jax.numpy as jnp
import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from tera_jax.llama import load_pretrained, load_tokenizer
from tera_jax.serve.engine import Engine
from tera_jax.serve.engine_config import EngineConfig
from tests.tera_jax.serve.http.fake import serving
from tests.train.evaluation.lm_eval_tasks import write_tasks
from train.evaluation import lm_eval_model

pytestmark = pytest.mark.long
TASKS = ["tiny_choice", "tiny_answer"]
WINDOW = 254
"""Tokens of a rolling window of the client: of its ``max_length`` of 256 it takes away one for the
token that an answer must have, and one for the context."""


def choices(results):
    """The log-likelihood of every choice, and whether it is the greedy one."""
    samples = sorted(results["samples"]["tiny_choice"], key=lambda sample: sample["doc_id"])
    return [pair for sample in samples for pair in sample["filtered_resps"]]


def answers(results):
    samples = sorted(results["samples"]["tiny_answer"], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"] for sample in samples]


def test_both_give_the_same_scores(finished, tmp_path, monkeypatch):
    manager = TaskManager(include_defaults=False, include_path=str(write_tasks(tmp_path)))
    run, workdir = finished
    model = lm_eval_model.TeraLM(workdir, batch_size=2)
    ours = simple_evaluate(model, tasks=TASKS, task_manager=manager, log_samples=True)
    rolling = {}
    for length in (model.max_length, WINDOW):
        monkeypatch.setattr(lm_eval_model.TeraLM, "max_length", length)
        found = simple_evaluate(model, tasks=["tiny_rolling"], task_manager=manager)
        rolling[length] = found["results"]["tiny_rolling"]["word_perplexity,none"]
    path = run.config.model.path
    tokenizer = load_tokenizer(path)
    base, params = load_pretrained(path, jnp.float32)
    config = EngineConfig(slots=4, max_length=256, eos_ids=(tokenizer.eos_token_id,))
    _, d = lm_eval_model.runs.restore_best(run, workdir)
    variables = {"params": params, "frozen": run.variables(d)["frozen"], "d": d}
    engine = Engine.of_adapter(base, run.adapter, variables, "mine", config)
    with serving(engine, tokenizer) as (address, _):
        given = {
            "model": "mine",
            "base_url": f"{address}/v1/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": path,
            "max_length": 256,
            "num_concurrent": 2,
        }
        theirs = simple_evaluate(
            "local-completions",
            model_args=given,
            tasks=[*TASKS, "tiny_rolling"],
            task_manager=manager,
            batch_size=2,
            log_samples=True,
        )
    found, wanted = choices(theirs), choices(ours)
    assert len(found) == len(wanted) == 12
    for (logp, greedy), (expected, is_greedy) in zip(found, wanted, strict=True):
        assert float(logp) == pytest.approx(float(expected), abs=1e-3)
        assert str(greedy) == str(is_greedy)
    for name in ("acc,none", "acc_norm,none"):
        both = (each["results"]["tiny_choice"][name] for each in (theirs, ours))
        assert len({*both}) == 1
    assert answers(theirs) == answers(ours)
    perplexity = theirs["results"]["tiny_rolling"]["word_perplexity,none"]
    assert perplexity == pytest.approx(rolling[WINDOW], rel=1e-3)
    assert perplexity != pytest.approx(rolling[256], rel=3e-3)
