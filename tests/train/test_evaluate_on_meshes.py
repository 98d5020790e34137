import dataclasses
import json

import jax
import pytest

from tera_jax.llama import GenerationConfig
from tests.train.test_evaluate import call
from train.evaluation import answers, questions
from train.evaluation.generation import Generator
from train.evaluation.measure import HELD_OUT
from train.training import run as runs


@pytest.mark.long
def test_a_mesh_gives_the_same_answers(finished):
    run, workdir = finished
    _, d = runs.restore_best(run, workdir)
    asked = questions.load(run.config.evaluate.path, "commonsense", run.config.data, 6)
    ids = answers.prompts(run, asked)
    mesh = dataclasses.replace(run.config.mesh, data=2, fsdp=2, tensor=2)
    sharded = runs.build(dataclasses.replace(run.config, mesh=mesh))
    _, same_d = runs.restore_best(sharded, workdir)
    decoding = GenerationConfig(num_beams=3, max_new_tokens=6)
    with jax.set_mesh(sharded.mesh):
        found = dict(Generator(sharded, same_d, decoding)(ids))
    assert found == dict(Generator(run, d, decoding)(ids))


@pytest.mark.long
def test_the_mesh_of_an_evaluation_is_a_flag(finished, tmp_path, capsys):
    _, workdir = finished
    for name, mesh in (("one", "data=1"), ("many", "data=2,fsdp=2")):
        call(workdir, f"--output={tmp_path / name}", "--limit=2", f"--mesh={mesh}")
    one, many = (
        json.loads((tmp_path / name / HELD_OUT / "loss.json").read_text())["held_out_loss"]
        for name in ("one", "many")
    )
    assert many == pytest.approx(one, rel=1e-6)
    with pytest.raises(ValueError, match="an axis 'dota'"):
        call(workdir, f"--output={tmp_path / 'other'}", "--mesh=dota=2")
    with pytest.raises(ValueError, match="batch_size 8 is not a multiple of mesh"):
        call(workdir, f"--output={tmp_path / 'other'}", "--mesh=data=3")
