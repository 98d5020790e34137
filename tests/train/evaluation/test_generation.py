"""Answers end where those of transformers end."""

import json
import shutil

import jax
import pytest
import torch
import transformers

from train.config import default, parse
from train.evaluation.generation import Generator
from train.training import run as runs

PROMPTS = [[10, 20, 30, 40], [50, 60, 70]]
NEW = 12


@pytest.fixture
def base(tiny_llama, tmp_path):
    """A copy whose EOS tokens can be changed."""
    path = tmp_path / "base"
    shutil.copytree(tiny_llama, path)

    def write(config, generation):
        raw = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(raw | {"eos_token_id": config}))
        file = path / "generation_config.json"
        file.unlink(missing_ok=True)
        if generation is not None:
            file.write_text(json.dumps({"eos_token_id": generation}))
        return path

    return write


def _answers(path):
    config = default("lora")
    config.model.path, config.model.dtype, config.data.path = str(path), "float32", "-"
    config.decoding.max_new_tokens, config.evaluate.batch_size = NEW, 2
    run = runs.build(parse(config))
    with jax.set_mesh(run.mesh):
        found = dict(Generator(run, runs.init_d(run))(PROMPTS))
    return run, [found[row] for row in range(len(PROMPTS))]


def _theirs(path, eos):
    """transformers' answers, without the token that ends them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    found = []
    for prompt in PROMPTS:
        tokens = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        found.append(tokens[:-1] if tokens[-1] in eos else tokens)
    return found


def test_answers_stop_at_each_eos_of_either_file_and_of_the_tokenizer(base):
    path = base(None, None)
    run, free = _answers(path)
    own = run.tokenizer.eos_token_id
    assert run.eos_ids == (own,)
    assert free == _theirs(path, [own])
    stops = [
        next(id_ for place, id_ in enumerate(answer) if place > 2 and id_ not in answer[:place])
        for answer in free
    ]
    for config, generation in (
        (stops[0], stops[1]),
        ([own, stops[0]], [stops[1]]),
    ):
        path = base(config, generation)
        run, found = _answers(path)
        assert set(run.eos_ids) == {own, *stops}
        assert found == _theirs(path, [own, *stops])
        assert all(len(short) < len(long) for short, long in zip(found, free, strict=True))
