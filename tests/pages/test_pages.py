"""The commands and the Python of the pages run as they stand, on a tiny model.

A page is a story: its blocks run in their order. Its shell has one directory and its Python another
one, with one namespace.
"""

import ast
import builtins
import functools
import json
import re
import shutil
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from benchmarks import methods, rounds
from configs.studies import smollm2
from tests.marks import quick_only
from tests.pages import commands, servers, table, world
from tests.pages.calls import Call, recorded
from train.config import flag


def examples(page, **evaluators):
    """The blocks of a page, in their order, of the languages that there is an evaluator for."""
    parsers = [CodeBlockParser(language, each) for language, each in evaluators.items()]
    return list(Sybil(parsers).parse(commands.ROOT / page).examples())


def calls(block: str, place: Path) -> list[Call]:
    """The commands of a block, with what the table puts in place of words."""
    found = recorded(block, place, SLURM_JOB_ID="1")
    return [Call(tuple(map(table.in_small, call.words))) for call in found]


def calls_of(page: str, place: Path) -> list[Call]:
    """All commands of a page."""
    return [call for block in examples(page, sh=print) for call in calls(block.parsed, place)]


def reason(call: Call) -> str | None:
    """Why a command is not run."""
    return next((why for part, why in table.NOT_RUN.items() if part in f"{call.text} "), None)


DOCS = sorted(str(path.relative_to(commands.ROOT)) for path in commands.ROOT.glob("docs/*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", *DOCS]
WITH_SHELL = [page for page in PAGES if examples(page, sh=print)]
WITH_PYTHON = [page for page in PAGES if examples(page, python=print)]


def test_every_language_has_an_evaluator():
    text = "\n".join((commands.ROOT / page).read_text() for page in PAGES)
    assert set(re.findall(r"^```(\w+)", text, re.MULTILINE)) == {"json", "python", "sh"}


@pytest.mark.parametrize("page", WITH_SHELL)
def test_every_flag_exists(page):
    """Also of what runs below: here arguments are parsed alone, in no time."""
    for call in calls_of(page, commands.ROOT):
        commands.check(call)


MODULES = [
    path
    for room in ("train", "benchmarks", "configs")
    for path in sorted((commands.ROOT / room).rglob("*.py"))
    if "\n    python -m " in path.read_text() and path.stem != "page"  # which takes no arguments
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(commands.ROOT)))
def test_every_flag_in_the_docstring_of_a_module_exists(path, tmp_path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    (block, *_) = re.findall(r"^    python -m .*\n(?:    .*\n)*", f"{text}\n", re.MULTILINE)
    block = re.sub(r"<[^>]+>", "some", re.sub(r" \[[A-Z-][^]]*\]", "", block))
    for call in calls(block, tmp_path):
        commands.check(call)


def test_every_reason_and_every_limit_is_of_a_command():
    texts = [f"{call.text} " for page in WITH_SHELL for call in calls_of(page, commands.ROOT)]
    parts = [*table.NOT_RUN, *table.LIMITS]
    assert [part for part in parts if not any(part in text for text in texts)] == []
    assert set(world.RUNS) <= set(RUN)


@pytest.mark.parametrize(
    ("right", "change", "to"),
    [
        ("python -m train.params --model=llama-2-7b", "model", "modle"),
        ("python -m train.params --remat=full", "full", "some"),
        ("python -m train.main --config=configs/sft.py --config.loop.steps=2 ...", "steps", "step"),
        ("python -m train.main --config=configs/sft.py ...", "sft", "sfd"),
        ("python -m train.main --config=sft --config.loop.steps=2 ...", "=2", "=0"),
        ("python -m train.main --config=sft ...", "main", "man"),
        ("python -m benchmarks.speed --sweep=tokens", "tokens", "token"),
        ("python -m benchmarks.speed --cases tera:structured", "structured", "structure"),
        ("python -m benchmarks.speed --cases frozen lora", "lora", "lore"),
        ("python -m train.generate --workdir=$SLURM_JOB_ID --chat", "$S", "$UNSET_S"),
        ("tera-train --config=sft ...", "train", "trains"),
        ("tera-generate --workdir=runs/sft --chat", "chat", "chats"),
        (".venv/bin/python -m pytest tests/pages", "/pages", "/none"),
        ("make quickstart", "quickstart", "quickstarts"),
        ("pip install '.[evaluate]'", "evaluate", "evaluation"),
        ("srun -n 2 python -m train.main --config=sft --config.mesh=data=2 ...", "=data", "=dta"),
        ("lm_eval --model=local-completions --tasks=arc_easy", "tasks", "task_names"),
        ("bash -c 'time python -c \"import jax\"'", "jax", "jax as"),
    ],
)
def test_a_wrong_command_is_refused(right, change, to, capsys):
    def check(block):
        for call in calls(block, commands.ROOT):
            commands.check(call)

    check(right)
    with pytest.raises((Exception, SystemExit)):
        check(right.replace(change, to))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return world.model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def place(model, tmp_path, monkeypatch):
    """The directory of a story, in which the user of a chat leaves at once."""

    def leave(prompt=""):
        raise EOFError

    world.build(tmp_path, model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(builtins, "input", leave)
    return tmp_path


RUN = [page for page in WITH_SHELL if not all(map(reason, calls_of(page, commands.ROOT)))]


@pytest.fixture
def short(monkeypatch):
    """The study of benchmarks.methods takes two steps. Steps are timed once, torch's as traced."""
    import torch

    given = smollm2.get_config
    compiler = functools.partial(torch.compile, backend="aot_eager")

    def get_config():
        config = given()
        config.steps, config.settings.loop.batch_size = methods.STEPS, 2
        return config

    monkeypatch.setattr(methods, "STEPS", 2)
    monkeypatch.setattr(smollm2, "get_config", get_config)
    monkeypatch.setattr(rounds, "ROUNDS", 1)
    monkeypatch.setattr(torch, "compile", compiler)


@pytest.mark.parametrize("page", quick_only([], RUN))
def test_the_commands_run(page, place, short):
    world.prepare(page, place)
    ready = set(place.glob("runs/*"))

    def shell(example):
        for call in filter(lambda call: reason(call) is None, calls(example.parsed, place)):
            for workdir in ready & {place / word.rpartition("=")[2] for word in call.words}:
                if call.module == "train.main":  # the page's own run takes its place
                    shutil.rmtree(workdir)
                    ready.remove(workdir)
            commands.run(call.module, [*call.arguments, *table.limits(call.module, call.arguments)])

    def questions(example):
        assert all(map(json.loads, example.parsed.splitlines()))
        (place / "questions.jsonl").write_text(example.parsed)

    for example in examples(page, sh=shell, json=questions):
        example.evaluate()


@pytest.mark.parametrize("page", quick_only(["README.md"], WITH_PYTHON))
def test_the_python_runs(page, place, monkeypatch, capsys):
    recipe = flag.recipe

    def short(name, method):
        config = recipe(name, method)
        config.data.packed_length = 64
        config.loop.steps, config.loop.eval_every = 3, 2
        return config

    monkeypatch.setattr(flag, "recipe", short)
    monkeypatch.setattr("train.training.loop.held_out_loss", lambda *_: 0.1)
    if page != "README.md":  # which saves its own
        world.adapter(place / "adapter", place / "path" / "to" / "model")
    text = (commands.ROOT / page).read_text()
    with servers.answering(text):
        for example in examples(page, python=PythonEvaluator()):
            example.evaluate()
    printed = capsys.readouterr().out
    assert ("after (step " in printed) == ("tera_jax.finetune(" in text)
    stops = "callbacks=" in text
    assert ("a callback ends the training at step 2 of 3" in printed) == stops
    assert (place / "adapter" / "adapter.safetensors").is_file()


def test_an_error_in_python_is_raised(tmp_path):
    (tmp_path / "page.md").write_text("```python\na = 1\n```\n\n```python\nassert a == 2\n```\n")
    first, second = examples(tmp_path / "page.md", python=PythonEvaluator())
    first.evaluate()
    with pytest.raises(AssertionError):
        second.evaluate()
