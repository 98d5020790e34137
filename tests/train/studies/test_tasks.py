"""The flags of a study, its tasks, and their parts."""

import itertools
import json

import pytest

from tests import parts as made_parts
from train import compare
from train.config import DataConfig, flag
from train.studies import command_line, parts, schema
from train.studies.parts import Parts


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--data is missing"),
        (["--data", "a.json", "--methods", "lora"], "--model is missing"),
        (["--data", "a.json", "--model=m"], "--methods is missing"),
        (["--data", "a.json", "b.json", "--test", "c.json"], "name the task, as NAME=PATH"),
        (["--data", "a/x.json", "b/x.csv"], "two tasks 'x'; name them apart, as NAME=PATH"),
        (["--data", "a.json", "--rates", "fast"], "give auto, climb, or numbers"),
        (["--config=smollm2"], "give --data GSM8K=PATH ConvAI2=PATH"),
        (["--config=smollm3"], "name a file, or one of schemes, smollm2"),
        (["--data=a.json", "--model=m", "--methods=lora", "--set=b1=1"], "give section and field"),
        (["--data=a", "--model=m", "--methods=lora", "--workers=0"], "--workers is 0"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path, more, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        compare.main([f"--output={tmp_path / 'out'}", *more])
    assert not (tmp_path / "out").exists()


def test_tasks_of_flags_and_of_a_file_have_their_parts(tmp_path):
    args = compare._parser().parse_args(
        ["--output=o", "--config=smollm2", "--model=m", "--data", "GSM8K=g.json", "ConvAI2=c.txt"]
    )
    made = schema.make(schema.build(command_line.tree(args)))
    gsm8k, convai2 = made.config.tasks
    assert gsm8k.located(gsm8k.validation) == "g.json[6473:6973]"
    assert convai2.located(convai2.train) == "c.txt[:800]"
    assert made.data(convai2).prompt == "convai2"
    assert len(made.variants) == 16
    file = tmp_path / "a=b.json"
    file.touch()
    args = compare._parser().parse_args(
        ["--output=o", "--model=m", "--methods", "lora", "--data", str(file), "x=y/mine.csv[:9]"]
    )
    assert [(task["name"], task["path"]) for task in command_line.tree(args)["tasks"]] == [
        ("a-b", str(file)),
        ("x", "y/mine.csv[:9]"),
    ]


def test_a_split_holds_out_what_it_says(tmp_path):
    path = made_parts.records(tmp_path / "r.json")
    texts = {}
    for seed in (58, 59):
        task = schema.TaskConfig(
            "T", f"{path}[:50]", validation_rows=7, test_rows=9, split_seed=seed
        )
        made = _texts(task)
        assert [len(made[part]) for part in Parts._fields] == [34, 7, 9]
        assert sorted(itertools.chain(*made.values())) == sorted(_instructions(path)[:50])
        texts[seed] = made["test"]
    assert texts[58] != texts[59]
    task = schema.TaskConfig("T", str(path), "[:100]", "[100:110]", "[110:]")
    made = _texts(task)
    assert made["validation"] == _instructions(path)[100:110]
    assert [len(made[part]) for part in Parts._fields] == [100, 10, 90]
    usual = _texts(schema.TaskConfig("T", str(path)))
    assert [len(usual[part]) for part in Parts._fields] == [160, 20, 20]
    with pytest.raises(ValueError, match="validation_rows=3 and test_rows=1 leaves none"):
        _texts(schema.TaskConfig("T", f"{path}[:4]", validation_rows=3))


def _instructions(path):
    return [record["instruction"] for record in json.loads(path.read_text())]


def _texts(task):
    """The instructions of each part, read back out of bytes that stand for tokens."""

    class Bytes:
        bos_token_id, eos_token_id = 1, 2

        def __call__(self, texts, *, add_special_tokens):
            return {"input_ids": [[*text.encode()] for text in texts]}

    config = DataConfig(task.path, prompt="hira", max_response=64)
    found, _ = parts.read(task, config, Bytes())
    return {
        name: [
            bytes(example.prompt).decode().split("### Instruction:\n")[1].split("\n\n")[0]
            for example in part
        ]
        for name, part in found._asdict().items()
    }


def test_values_may_follow_an_equals_sign():
    spaced = command_line.spaced(["--data=x=a.json", "y=b.json", "--seeds=2", "--rates=1e-3", "1"])
    assert spaced == ["--data", "x=a.json", "y=b.json", "--seeds=2", "--rates", "1e-3", "1"]
    args = compare._parser().parse_args(["--output=o", *spaced])
    assert (args.data, args.rates, args.seeds) == (["x=a.json", "y=b.json"], ["1e-3", "1"], 2)


def test_a_process_is_started_for_each_gpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert command_line.devices(None) == ["3", "5"]
    assert command_line.devices(1) == ["3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert command_line.devices(None) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert command_line.devices(None) == []
    assert command_line.devices(2) == ["", ""]


def test_recipes_may_be_files(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(flag.recipes()["sft"].read_text().replace("= 10", "= 3"))
    assert flag.recipe(str(file), "lora").optim.warmup_steps == 3
    assert flag.recipe("sft", "lora").optim.warmup_steps == 10
