"""The files that the pages name, in small."""

import gzip
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

import tera_jax
from tera_jax.llama import load_pretrained
from tests import parts
from tests.pages.commands import ROOT, run
from tests.pages.table import limits
from tests.train.evaluation.text.texts import SYNSETS, write_wordnet
from train.tasks import commonsense

MODELS = (
    "path/to/model",
    "path/to/base",
    "path/to/Llama-2-7b-hf",
    "SmolLM2-135M-Instruct.gguf",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
)
_COMMONSENSE = ("--config=configs/commonsense.py", "--config.data.path=commonsense_170k.json")
_SFT = ("--config=configs/sft.py", "--config.data.path=mine.jsonl", "--workdir=runs/sft")
_CONVAI2 = (
    "--config=configs/convai2.py",
    "--config.data.path=valid_self_original.txt[:20]",
    "--config.data.validation_path=valid_self_original.txt[20:24]",
    "--config.evaluate.wordnet=wordnet",
    "--config.evaluate.encoder=all-MiniLM-L6-v2",
    "--workdir=runs/convai2",
)
_MATH = (
    "--config=configs/math10k.py",
    "--config.data.path=commonsense_170k.json",
    "--workdir=runs/math",
)
_QUESTIONS = [
    {"prompt": "What is red?", "answer": "the sun"},
    {"prompt": "Is it?", "answer": "the sea"},
]
_DIALOGUES, _PROBLEMS = 910, 6990
"""So many that each part of the study of configs/studies/smollm2.py has some."""
RUNS = {
    "docs/analysis.md": (_SFT,),
    "docs/evaluation.md": ((*_COMMONSENSE, "--workdir=runs/commonsense"), _MATH, _CONVAI2, _SFT),
    "docs/reliability.md": ((*_COMMONSENSE, "--workdir=runs/first"),),
    "docs/using.md": (_SFT,),
}
"""Arguments of ``train.main`` for the runs that the commands of a page take as finished."""
_ANSWERS = {name: labels[0] for name, labels in commonsense.LABELS.items()} | {
    "AQuA": "A",
    "SVAMP": "4",
}
"""One that each task can have."""


def model(path: Path) -> Path:
    """A random Llama of two layers, with room for the ranks and the rows of the recipes."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 1024}
    return parts.tiny_llama(path, **sizes)


def build(place: Path, model: Path) -> None:
    """What commands and Python find in their directory, but for what was trained.

    Args:
        place: an empty directory.
        model: from :func:`model`.
    """
    for name in MODELS:
        link(place / name, model)
    for name in ("configs", "examples"):
        shutil.copytree(ROOT / name, place / name)
    (place / "benchmarks" / "results").mkdir(parents=True)
    rows = json.loads(parts.records(place / "commonsense_170k.json").read_text())
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (place / "records.jsonl").write_text("".join(lines.splitlines(keepends=True)[:24]))
    with gzip.open(place / "commonsense_161k.jsonl.gz", "wt") as file:
        file.write(lines)
    _write_lines(place / "mine.jsonl", _chats())
    for name, number in (("ana", 0), ("ben", 1)):
        _write_lines(place / f"{name}.jsonl", _chats()[number : 9 + number])
    people = ({"name": "ana", "data": "ana.jsonl"}, {"name": "ben", "data": "ben.jsonl", "seed": 1})
    _write_lines(place / "people.jsonl", [*people])
    _write_lines(place / "questions.jsonl", _QUESTIONS)
    (place / "mine.csv").write_text(
        "question,answer,source\n" + "".join(f"what is {i}?,the sun,a\n" for i in range(20))
    )
    for task, answer in _ANSWERS.items():
        for folder in ("dataset", "commonsense"):
            file = place / folder / task / "test.json"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps([{**row, "answer": answer} for row in rows[:3]]))
    for name in ("valid_self_original.txt", "valid_self_original_no_cands.txt"):
        (place / name).write_text("".join(_dialogue(i) for i in range(_DIALOGUES)))
    (place / "gsm8k").mkdir()
    for name, count in (("train", _PROBLEMS), ("test", 80)):
        (place / "gsm8k" / f"{name}.json").write_text(json.dumps([*map(_problem, range(count))]))
    write_wordnet(place / "wordnet", SYNSETS)


def prepare(page: str, place: Path) -> None:
    """The finished runs of a page, and an adapter, in the directory of the process."""
    if page not in RUNS:
        return
    from tests.train.evaluation.text.encoders import write_bert  # which imports torch

    write_bert(place / "all-MiniLM-L6-v2")
    adapter(place / "adapter", place / "path" / "to" / "model")
    for arguments in RUNS[page]:
        given = [*arguments, "--config.model.path=path/to/model"]
        run("train.main", [*given, *limits("train.main", given)])


def link(path: Path, target: Path) -> None:
    """A symbolic link, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _chats() -> list[Mapping[str, object]]:
    draw = random.Random(0)
    names = ["red", "blue", "cat", "dog", "sun", "sea"]
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {draw.choice(names)}?"},
                {"role": "assistant", "content": f"the {draw.choice(names)}"},
            ]
        }
        for _ in range(40)
    ]


def _write_lines(file: Path, rows: list[Mapping[str, object]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _dialogue(number: int) -> str:
    persona = ("i ski.", "i sail.")[number % 2]
    lines = [f"your persona: {persona}", f"hi !\thello {number} .", "and you ?\ti ski ."]
    return "".join(f"{i} {line}\n" for i, line in enumerate(lines, 1))


def _problem(number: int) -> Mapping[str, str]:
    return {"instruction": f"What is {number % 7} and one?", "output": f"#### {number % 7 + 1}"}


def adapter(path: Path, model: Path) -> None:
    """Two exported adapters of the model, with the d that a run starts from."""
    llama, params = load_pretrained(model)
    made = tera_jax.adapt(llama, jnp.ones((1, 2), jnp.int32), method="tera")
    frozen = jax.jit(made.init_frozen)(params)
    d = jax.jit(made.init_d)(params, frozen)
    tera_jax.save_adapter(path, made, {"params": params, "frozen": frozen, "d": d}, "path/to/model")
    shutil.copytree(path, path.with_name(f"other-{path.name}"))
