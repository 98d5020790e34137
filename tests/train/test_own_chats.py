"""From 200 chats to an answer, on real weights; ``test_finetune.py`` has the same on small ones."""

import itertools
import math

import pytest
import torch
import transformers

import tera_jax
from tests.parts import smollm2
from train import generate

THINGS = {
    "the moon": "a rock that goes round the earth",
    "a compass": "a needle that points to the north",
    "the sea": "salt water as far as you see",
    "bread": "flour and water from the oven",
    "a map": "the land drawn on paper",
    "rain": "water that falls from clouds",
    "a clock": "a wheel that counts the hours",
    "a parrot": "a bird that talks back",
    "gold": "a yellow metal that all want",
    "a storm": "wind and thunder at once",
    "a whale": "the largest beast of the sea",
    "an island": "land with water on all sides",
    "a rope": "many threads turned into one",
    "a lantern": "a light that you can carry",
    "a song": "words with a tune to them",
    "salt": "what the sea leaves when it dries",
    "a sail": "a cloth that catches the wind",
    "an anchor": "the iron that holds a ship",
    "the tide": "the sea that comes and goes",
    "a harbour": "where ships are safe",
}
ASKED = (
    "What is {}?",
    "Tell me what {} is.",
    "Explain {} to a child.",
    "Describe {} in a few words.",
    "Can you say what {} is?",
    "What would you call {}?",
    "I never heard of {}. What is it?",
    "In one sentence, what is {}?",
    "Please define {}.",
    "My friend asks what {} is.",
)
SHORT = {
    "steps": 28,
    "packed_length": 256,
    "batch_size": 1,
    "learning_rate": 3e-2,
    "warmup_steps": 3,
}
NEW = ("What is a candle?", "Tell me what snow is.")


def chats():
    return [
        {
            "messages": [
                {"role": "user", "content": asked.format(thing)},
                {"role": "assistant", "content": f"Ahoy! It is {what}, matey."},
            ]
        }
        for (thing, what), asked in itertools.product(THINGS.items(), ASKED)
    ]


@pytest.mark.long
@pytest.mark.timeout(1500)  # it has minutes of work, and a worker beside it
@pytest.mark.smollm2
def test_chats_are_learned_asked_and_exported(tmp_path, capsys):
    records, workdir = chats(), tmp_path / "run"
    assert len(records) == 200
    tuned = tera_jax.finetune(
        smollm2(), records, workdir=workdir, dtype="float32", remat="none", live=False, **SHORT
    )
    losses = [one["held_out_loss"] for one in tuned.history if "held_out_loss" in one]
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("held-out loss (nats"))
    first, last = map(float, line.split()[-2:])
    assert math.isclose(last, min(losses), abs_tol=1e-3)
    assert last <= first / 2, line

    generate.main([f"--workdir={workdir}", *(f"--prompt={asked}" for asked in NEW)])
    said = [row for row in capsys.readouterr().out.splitlines() if row and row[0] != ">"]
    assert len(said) == len(NEW)
    for answer in said:
        assert answer.startswith("Ahoy! It is "), answer
        assert answer.rstrip().endswith(", matey."), answer

    answers = tuned.generate([*NEW], max_new_tokens=24)
    assert [answer.strip() for answer in answers] == [answer.strip() for answer in said]
    tuned.save(tmp_path / "merged", format="hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    for asked, answer in zip(NEW, answers, strict=True):
        turns = [{"role": "user", "content": asked}]
        given = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**given, max_new_tokens=24, do_sample=False)
        theirs = tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
        assert theirs.strip() == answer.strip()
    assert tuned.generate(NEW[0], base=True, max_new_tokens=24) != answers[0]
