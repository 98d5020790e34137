"""What ``python -m train.data`` prints; of a model it reads the tokenizer alone."""

import json
import shutil

import pytest

from tests.train.data.marked import chat
from train import command
from train.data.__main__ import main

ROWS = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "red"}]}
    for i in range(20)
]


@pytest.fixture
def bare(tiny_llama, tmp_path):
    """A model without its weights."""
    left_out = shutil.ignore_patterns("*.safetensors*")
    return str(shutil.copytree(tiny_llama, tmp_path / "bare", ignore=left_out))


def printed(capsys, rows, tmp_path, *arguments):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    main([str(path), *arguments])
    return capsys.readouterr().out


def test_kind_table_and_first_record_are_printed(bare, tmp_path, capsys):
    said = printed(capsys, ROWS, tmp_path, f"--model={bare}").splitlines()
    assert said[0] == f"{tmp_path}/mine.jsonl: 20 records of kind messages (messages)"
    head, train, held_out = (line.split() for line in said[1:4])
    assert head[:3] == ["records", "tokens", "longest"]
    assert (train[1], held_out[1]) == ("18", "2")
    assert said[4] == "the first training record, the loss on ⟦...⟧:"
    number = "".join(filter(str.isdigit, said[8]))
    assert "\n".join(said[5:]) + "\n" == chat(f"user: q{number}", "assistant!: red") + "\n"


def test_fields_of_the_data_are_flags(bare, tmp_path, capsys):
    rows = [{"q": f"q{i}", "a": "red"} for i in range(20)]
    flags = ("--config.data.columns.prompt=q", "--config.data.columns.completion=a")
    said = printed(capsys, rows, tmp_path, f"--model={bare}", *flags, "--config.data.loss=all")
    assert "20 records of kind prompt/completion (prompt, completion)" in said
    assert said.count("⟦") == 2
    assert said.endswith("<|im_end|>\n⟧\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.data.los=last"], "unknown config key config.data.los; did you mean"),
        (["--config.data.prompt=hira"], "record 0 of .* has no text in field 'instruction'"),
        (["--config.data.columns.text=body"], "has no column 'body'"),
    ],
)
def test_errors_are_of_the_user(bare, tmp_path, capsys, arguments, message):
    with pytest.raises(Exception, match=message) as caught:
        printed(capsys, ROWS, tmp_path, f"--model={bare}", *arguments)
    assert command.is_user_error(caught.value)


def test_other_sections_are_refused(bare, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        printed(capsys, ROWS, tmp_path, f"--model={bare}", "--config.loop.steps=3")
    assert ended.value.code == 2
    assert "unknown argument --config.loop.steps=3" in capsys.readouterr().err
