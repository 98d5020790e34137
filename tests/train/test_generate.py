"""``python -m train.generate``: a run, an adapter or a base answers, also in a terminal."""

import itertools
import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tera_jax
from tera_jax.llama import load_pretrained, load_tokenizer
from train import export, generate
from train.generation import source
from train.generation.style import style_of
from train.training import run as runs

NEW = "--max-new-tokens=6"
PROMPT = "a: red?"


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """The adapter of a run, and what it answers to the run's own prompt by the library."""
    _, workdir = finished
    path = tmp_path_factory.mktemp("exports") / "adapter"
    export.main([f"--workdir={workdir}", "--format=adapter", f"--output={path}"])
    return path


def expected(path, adapter, prompt):
    """The library's answer to token ids given as a text, with an adapter or without."""
    model, params = load_pretrained(path)
    given, variables = None, {"params": params}
    if adapter is not None:
        given, variables = tera_jax.load_adapter(adapter, params)
    tokenizer = load_tokenizer(path)
    return tera_jax.generate(model, variables, tokenizer, prompt, adapter=given, max_new_tokens=6)


def answered(capsys, *argv):
    capsys.readouterr()
    generate.main([*argv, NEW])
    return capsys.readouterr().out


def test_a_run_an_adapter_and_a_base_answer_as_the_library_does(
    finished, exported, tiny_llama, capsys
):
    run, workdir = finished
    # A run is asked in its own template, which as a raw text is the same prompt.
    style = style_of(run.tokenizer, run.config.data)
    text = run.tokenizer.decode(style.ids({"prompt": PROMPT}))
    found = answered(capsys, f"--workdir={workdir}", f"--prompt={PROMPT}")
    assert found.strip() == expected(tiny_llama, exported, text).strip()
    base = ("--model", str(tiny_llama))
    given = ("--adapter", str(exported), *base, "--raw", f"--prompt={text}")
    assert answered(capsys, *given) == expected(tiny_llama, exported, text) + "\n"
    assert answered(capsys, *base, "--raw", f"--prompt={text}") != found
    chat = [{"role": "user", "content": PROMPT}]
    assert answered(capsys, *base, f"--prompt={PROMPT}") == expected(tiny_llama, None, chat) + "\n"


def test_a_prompt_without_room_is_refused_before_a_weight_is_read(tiny_llama, monkeypatch):
    monkeypatch.setattr(source, "load_pretrained", None)
    given = [f"--model={tiny_llama}", "--raw", f"--prompt={PROMPT}"]
    with pytest.raises(ValueError, match=r"--prompt 2 has .* tokens, which leaves no room in the"):
        generate.main([*given, f"--prompt={PROMPT * 200}"])
    with pytest.raises(TypeError):  # the weights are read next
        generate.main(given)


def test_an_adapter_of_peft_answers(tiny_llama, tmp_path, capsys):
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, config)
    model.save_pretrained(tmp_path / "peft")
    given = ("--model", str(tiny_llama), "--raw", f"--prompt={PROMPT}")
    found = answered(capsys, "--adapter", str(tmp_path / "peft"), *given)
    tokenizer = load_tokenizer(tiny_llama)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    assert found == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) + "\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"{letter}: red?"} for letter in "abcde"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("sampling", [[], ["--temperature=0.9", "--seed=5"]])
def test_a_killed_file_of_answers_goes_on_to_the_same_bytes(
    tiny_llama, file, tmp_path, monkeypatch, sampling
):
    def ask(output):
        given = [f"--model={tiny_llama}", f"--prompts={file}", f"--output={output}"]
        generate.main([*given, NEW, "--batch-size=2", *sampling])

    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    ask(whole)
    rows = [json.loads(line) for line in whole.read_text().splitlines()]
    assert [(row["row"], row["prompt"]) for row in rows] == [
        (place, f"{letter}: red?") for place, letter in enumerate("abcde")
    ]

    class KilledError(Exception):
        pass

    rows_of = generate._rows

    def three(*args):
        yield from itertools.islice(rows_of(*args), 3)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(generate, "_rows", three)
        with pytest.raises(KilledError):
            ask(killed)
    assert len(killed.read_text().splitlines()) == 3
    ask(killed)
    assert killed.read_bytes() == whole.read_bytes()
    # Once complete it loads no model.
    monkeypatch.setattr(source, "load_pretrained", None)
    ask(killed)
    file.write_text(file.read_text().replace("red", "sea"))
    with pytest.raises(FileExistsError, match=r"settings\.prompts\.tokens"):
        ask(killed)


def test_ctrl_c_says_that_the_same_command_goes_on(file, tiny_llama, tmp_path, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "_rows", stopped)
    with pytest.raises(SystemExit) as caught:
        generate.main([f"--model={tiny_llama}", f"--prompts={file}", f"--output={tmp_path / 'a'}"])
    assert caught.value.code == 130
    assert capsys.readouterr().err.endswith("stopped; the same command goes on\n")


@pytest.mark.parametrize("page", ["docs/getting-started.md", "docs/using.md"])
def test_every_command_of_the_pages_has_flags_that_there_are(page):
    text = (Path(__file__).parents[2] / page).read_text().replace("\\\n", " ")
    commands = re.findall(r"^python -m train\.generate (.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        args = generate._parser().parse_args(shlex.split(command))
        assert args.prompts or generate._asked(args) is not None


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        ([], ValueError, "nothing was given; give one of --prompt, --prompts, --chat"),
        (["--chat", "--prompt=a"], ValueError, "--prompt and --chat was given"),
        (["--prompt=a", "--workdir=r", "--model=m"], ValueError, "--workdir has its own model"),
        (["--prompt=a"], ValueError, "there is no base; name it by --model"),
        (["--prompt=a", "--workdir=none"], FileNotFoundError, "none/config.json does not exist"),
        (["--prompt=a", "--adapter=none"], FileNotFoundError, "none holds neither adapter.json"),
        (["--prompts=a.txt"], ValueError, "--prompts needs --output="),
        (["--prompts=no.txt", "--output=o"], FileNotFoundError, "no.txt does not exist"),
        (["--chat", "--output=o"], ValueError, "--output is for --prompts"),
        (["--prompt=a", "--batch-size=0"], ValueError, "--batch-size is 0"),
        (["--prompt=a", "--seed=-1"], ValueError, "--seed is -1"),
        (["--prompt=a", "--model={}", "--top-p=2"], ValueError, "top_p=2.0 must be above 0"),
        (["--prompt=a", "--model={}", "--temperature=-1"], ValueError, "temperature=-1.0 must be"),
        (
            ["--prompt=a", "--model={}", "--num-beams=2", "--temperature=1"],
            ValueError,
            "do_sample with num_beams=2 is not offered",
        ),
        (["--prompt=", "--model={}"], ValueError, "--prompt 1 has no text in field 'prompt'"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_loaded(
    tiny_llama, tmp_path, monkeypatch, argv, error, message
):
    monkeypatch.setattr(source, "load_pretrained", None)
    monkeypatch.setattr(runs, "build", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        generate.main([each.format(tiny_llama) for each in argv])


def test_an_adapter_names_the_base_that_it_was_made_for(exported, tiny_llama):
    with pytest.raises(
        ValueError, match=f"name it by --model: .* was made for '{tiny_llama.name}'"
    ):
        generate.main([f"--adapter={exported}", "--prompt=a"])


def test_the_checkpoints_own_sampling_is_the_default(tiny_llama, tmp_path, capsys):
    path = tmp_path / "base"
    path.mkdir()
    for file in tiny_llama.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    ask = ("--raw", f"--prompt={PROMPT}")
    greedy = answered(capsys, f"--model={path}", *ask)
    sampling = {"do_sample": True, "temperature": 3.0, "min_p": 0.1}
    (path / "generation_config.json").write_text(json.dumps(sampling))
    generate.main([f"--model={path}", *ask, NEW])
    drawn = capsys.readouterr()
    assert drawn.out != greedy
    assert "generation_config.json sets min_p=0.1: not used here" in drawn.err
    assert answered(capsys, f"--model={path}", *ask, "--temperature=0") == greedy
    again = answered(capsys, f"--model={path}", *ask, "--temperature=3", "--seed=0")
    assert again == drawn.out
    assert answered(capsys, f"--model={path}", *ask, "--temperature=3", "--seed=1") != again


class Terminal:
    """A command behind a pseudo-terminal."""

    def __init__(self, *argv):
        self.master, slave = pty.openpty()
        program = [sys.executable, "-m", "train.generate", *argv]
        environment = {**os.environ, "TERM": "dumb"}
        self.process = subprocess.Popen(
            program, stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def until(self, text, seconds=100):
        """What the terminal shows next, up to a text and without it."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come, but {self.seen!r}"
            self.seen = (self.seen + os.read(self.master, 1024).decode()).replace("\r\n", "\n")
        found, _, self.seen = self.seen.partition(text)
        return found

    def send(self, text):
        os.write(self.master, text.encode())

    def line(self, text):
        self.send(text + "\n")
        self.until(text + "\n")  # the terminal's echo


@pytest.mark.long
def test_the_chat_in_a_terminal_switches_the_adapter_off_and_on(finished, exported, tiny_llama):
    run, workdir = finished
    style = style_of(run.tokenizer, run.config.data)
    text = run.tokenizer.decode(style.ids({"prompt": PROMPT}))
    tuned, base = (expected(tiny_llama, x, text).strip() for x in (exported, None))
    assert tuned != base
    terminal = Terminal(f"--workdir={workdir}", "--chat", NEW)
    assert "/base" in terminal.until("> ")
    for answer, prompt in ((tuned, "> "), (base, "base> ")):
        terminal.line(PROMPT)
        assert terminal.until(f"\n{prompt}").removesuffix(f"\n{prompt}").strip() == answer
        terminal.line("/base")
        terminal.until(" answers now.\n")
        terminal.until("> ")
    terminal.send("\x04")
    assert terminal.process.wait(60) == 0
    errors = terminal.process.stderr.read().decode()
    terminal.process.stderr.close()
    assert "prompts: hira" in errors
    os.close(terminal.master)
