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
TASKS = ["tiny_choice", "tiny_rolling", "tiny_answer"]


def scores(results):
    """Of each task, without the errors of a sample of four."""
    return {
        (task, name): value
        for task, found in results["results"].items()
        for name, value in found.items()
        if isinstance(value, float) and "stderr" not in name
    }


def answers(results):
    return {
        task: [sample["resps"] for sample in found] for task, found in results["samples"].items()
    }


def test_both_give_the_same_scores(finished, tmp_path, monkeypatch):
    manager = TaskManager(include_defaults=False, include_path=str(write_tasks(tmp_path)))
    run, workdir = finished
    model = lm_eval_model.TeraLM(workdir, batch_size=2)
    ours = simple_evaluate(model, tasks=TASKS, task_manager=manager, log_samples=True)
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
            tasks=TASKS,
            task_manager=manager,
            batch_size=2,
            log_samples=True,
        )
    found, wanted = scores(theirs), scores(ours)
    assert found.keys() == wanted.keys()
    assert len(found) >= 4
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert answers(theirs)["tiny_answer"] == answers(ours)["tiny_answer"]
