import json
from pathlib import Path

import jax
import pytest

from train import data
from train.config import default, parse
from train.data import records
from train.training.loop import fit
from train.training.run import build
from train.training.workdir import init_workdir

CONFIG = """
import json, ml_collections
from train.config import default

def get_config():
    config = default("tera")
    config.unlock()
    config.update(ml_collections.ConfigDict(json.loads({text!r})))
    return config.lock()
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    """Writes a config file of TeRA with other fields than the defaults."""

    def write(fields: dict) -> Path:
        path = tmp_path_factory.mktemp("config") / "tiny.py"
        path.write_text(CONFIG.format(text=json.dumps(fields)))
        return path

    return write


@pytest.fixture(scope="session")
def fields(tiny_llama, records_path) -> dict:
    """Of a small run in a process of its own, for ``config_file``; the loop is left to the test."""
    return {
        "model": {"path": str(tiny_llama), "dtype": "float32", "remat": "none"},
        "data": {
            "path": str(records_path),
            "validation_rows": 16,
            "max_prompt": 40,
            "max_response": 8,
        },
        "method": {"num_modes": 2},
        "optim": {"learning_rate": 3e-2, "warmup_steps": 5},
    }


@pytest.fixture
def tiny_config(tiny_llama, records_path):
    """A ``ConfigDict`` of a run of a few seconds."""
    return make_config(tiny_llama, records_path)


def make_config(tiny_llama: Path, records_path: Path):
    config = default("tera")
    config.model.path = str(tiny_llama)
    config.model.dtype = "float32"
    config.model.remat = "none"
    config.data.path = str(records_path)
    config.data.validation_rows = 16
    config.data.max_prompt = 48
    config.data.max_response = 8
    config.method.num_modes = 2
    config.optim.learning_rate = 3e-2
    config.optim.warmup_steps = 5
    config.loop.batch_size = 8
    config.loop.steps = 12
    config.loop.eval_every = 6
    config.loop.log_every = 2
    config.evaluate.path = str(records_path)
    config.evaluate.limit = 6
    config.evaluate.batch_size = 8
    config.decoding.max_new_tokens = 8
    return config


@pytest.fixture(scope="session")
def finished(tiny_llama, records_path, tmp_path_factory):
    """A run that was trained to its end: its parts, and its directory."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = parse(make_config(tiny_llama, records_path))
    init_workdir(workdir, config)
    run = build(config)
    train, valid = (
        data.tokenize(part, run.tokenizer, config.data) for part in records.split(config.data)
    )
    with jax.set_mesh(run.mesh):
        fit(run, workdir, train, valid)
    return run, workdir
