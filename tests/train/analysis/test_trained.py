"""A run that was trained, and what its analysis says."""

import json

import jax
import pytest

from tests.train.conftest import make_config
from train import analyze, data
from train.config import parse
from train.data import records
from train.training.loop import fit
from train.training.run import build
from train.training.workdir import init_workdir


@pytest.mark.long
def test_a_lora_of_rank_8_trained_in_bfloat16_has_rank_8(tiny_llama, records_path, tmp_path):
    given = make_config(tiny_llama, records_path)
    given.method = {"name": "lora", "rank": 8, "targets": ("q_proj", "v_proj")}
    given.model.dtype = "bfloat16"
    config = parse(given)
    init_workdir(tmp_path / "run", config)
    run = build(config)
    parts = (data.tokenize(part, run.tokenizer, config.data) for part in records.split(config.data))
    with jax.set_mesh(run.mesh):
        fit(run, tmp_path / "run", *parts)

    analyze.main([str(tmp_path / "run"), f"--output={tmp_path / 'figures'}"])
    (found,) = json.loads((tmp_path / "figures" / "analysis.json").read_text())["runs"]
    assert len(found["kernels"]) == 4
    for kernel in found["kernels"]:
        assert min(kernel["shape"]) > 8
        assert kernel["rank_float64"] == kernel["rank_float32"] == 8
