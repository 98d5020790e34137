"""The recipe for data of one's own: under each schedule a stopped run goes on to the same bits."""

import json
import random

import jax
import numpy as np
import pytest

from configs.sft import get_config
from tests.marks import quick_only
from train import data
from train.config import parse
from train.training import run as runs
from train.training.checkpoint import Checkpoints
from train.training.loop import fit
from train.training.workdir import init_workdir

WORDS = ["red", "blue", "cat", "dog", "sun", "sea", "one", "two"]


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """Conversations of one to three turns."""
    path, draw = tmp_path_factory.mktemp("chats") / "chats.jsonl", random.Random(0)
    rows = []
    for _ in range(60):
        turns = []
        for _ in range(draw.randint(1, 3)):
            turns.append({"role": "user", "content": f"the {draw.choice(WORDS)}?"})
            answer = " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))
            turns.append({"role": "assistant", "content": answer})
        rows.append({"messages": turns})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def prepared(tiny_llama, chats):
    """The run of a schedule, and its data; all schedules have the same base."""
    made = {}

    def prepare(schedule):
        config = get_config()
        config.model.path, config.model.dtype, config.model.remat = (
            str(tiny_llama),
            "float32",
            "none",
        )
        config.data.path, config.data.packed_length = str(chats), 256
        config.method.num_modes = 2
        config.optim.schedule, config.optim.warmup_steps = schedule, 2
        config.loop.steps, config.loop.eval_every, config.loop.batch_size = 6, 3, 2
        config.evaluate.batch_size = 2
        parsed = parse(config)
        if not made:
            made["run"] = runs.build(parsed)
            made["data"] = data.prepare(parsed.data, made["run"].tokenizer)
        meta = made["run"].meta._replace(config=runs.to_dict(parsed))
        return made["run"]._replace(config=parsed, meta=meta), made["data"]

    return prepare


@pytest.mark.parametrize("schedule", quick_only(["cosine"], ["linear", "cosine", "constant"]))
def test_a_stopped_run_goes_on_to_the_same_bits(prepared, tmp_path, monkeypatch, schedule):
    run, examples = prepared(schedule)
    assert examples.train.cuts.responses == 0

    def trained(name, stop=None):
        workdir = tmp_path / name
        init_workdir(workdir, run.config)
        feed = data.DataIterator.__next__

        def fed(stream):
            if stop is not None and len(calls) == stop:
                raise KilledError
            calls.append(stream.position)
            return feed(stream)

        calls = []
        with monkeypatch.context() as patch, jax.set_mesh(run.mesh):
            patch.setattr(data.DataIterator, "__next__", fed)
            fit(run, workdir, examples.train, examples.held_out)
        with Checkpoints(workdir) as checkpoints:
            like = runs.abstract_state(run, runs.optimizer(run.config.optim, 1))
            assert checkpoints.whole == 6
            return jax.device_get(checkpoints.restore(6, like, run.meta)[0]), calls

    whole, calls = trained("whole")
    with pytest.raises(KilledError):
        trained("stopped", stop=5)
    again, resumed = trained("stopped")
    assert resumed == calls[3:]
    for a, b in zip(*map(jax.tree.leaves, (whole, again)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert int(whole.step) == 6
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(whole.opt))
