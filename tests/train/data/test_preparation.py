"""What is said, and what is refused, before a base is loaded."""

import json

import pytest

from train import data
from train.config import DataConfig, default, parse


class Words:
    """A tokenizer of words; the ids are their lengths."""

    bos_token_id = 1
    eos_token_id = 2

    def __call__(self, text, *, add_special_tokens):
        return {"input_ids": [[len(word) for word in line.split()] for line in text]}

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.fixture
def write(tmp_path):
    def write(name, long, short):
        """``long`` responses of 9 words, then ``short`` ones of 2."""
        rows = [{"instruction": "a", "output": " ".join(["b"] * 9)}] * long
        rows += [{"instruction": "a", "output": "b c"}] * short
        (tmp_path / name).write_text(json.dumps(rows))
        return str(tmp_path / name)

    return write


def config(path, held_out, **fields):
    return DataConfig(path=path, validation_path=held_out, max_response=4, **fields)


def test_what_was_read_and_cut_is_said(write):
    paths = write("t.json", 1, 199), write("v.json", 0, 5)
    found = data.prepare(config(*paths, max_prompt=3), Words())
    assert found.lines[:2] == (
        f"{paths[0]}: 200 records of kind alpaca (instruction, output)",
        f"{paths[1]}: 5 records of kind alpaca (instruction, output)",
    )
    table = [line.split() for line in found.lines[2].splitlines()]
    names = "records tokens longest prompts cut responses cut without loss dropped loss tokens"
    assert table[0] == names.split()
    assert table[1] == ["training", "200", "1,002", "7", "200", "1", "0", "0", "40.1%"]
    assert table[2] == ["held-out", "5", "25", "5", "5", "0", "0", "0", "40.0%"]
    # The ids of words are their lengths, and so are what the first record shows.
    assert found.lines[3:] == (
        "the first training record, the loss on ⟦...⟧:",
        "1 3 9⟦1 1 1 1⟧",
    )
    assert len(found.train) == 200
    assert len(found.held_out) == 5


def test_more_than_one_percent_of_cut_responses_is_refused(write):
    most, more, none = write("a.json", 2, 198), write("b.json", 3, 197), write("c.json", 0, 9)
    data.prepare(config(most, none), Words())
    message = (
        r"3 of 200 training responses \(1.5%\) are cut; set config.data.max_response=9, which cuts "
        "none, or config.data.allow_cut_responses=True"
    )
    with pytest.raises(ValueError, match=message):
        data.prepare(config(more, none), Words())
    data.prepare(config(more, none, allow_cut_responses=True), Words())
    with pytest.raises(ValueError, match="3 of 200 held-out responses"):
        data.prepare(config(none, more), Words())


@pytest.mark.parametrize("append_eos", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 12])
def test_the_limits_of_the_message_cut_none_and_one_less_does(write, append_eos, max_tokens):
    path = write("t.json", 5, 5)
    fields = {"max_tokens": max_tokens, "append_eos": append_eos, "max_prompt": 8}
    with pytest.raises(ValueError, match="responses") as caught:
        data.prepare(config(path, path, **fields), Words())
    named = str(caught.value).partition("set ")[2].partition(", which")[0].split(" and ")
    limits = {
        name.removeprefix("config.data."): int(n)
        for name, _, n in (x.partition("=") for x in named)
    }
    assert limits.keys() == {"max_response"} | ({"max_tokens"} if max_tokens else set())
    fields["max_response"] = 4
    whole = DataConfig(path=path, validation_path=path, **fields | limits)
    assert data.prepare(whole, Words()).train.cuts.responses == 0
    for name, limit in limits.items():
        less = DataConfig(path=path, validation_path=path, **fields | limits | {name: limit - 1})
        with pytest.raises(ValueError, match="responses"):
            data.prepare(less, Words())


def test_records_without_a_target_are_counted_and_refused_if_all_are(write):
    path = write("t.json", 0, 10)
    length = len(
        data.tokenize([{"instruction": "a", "output": "b"}], Words(), DataConfig("x"))[0].prompt
    )
    with pytest.raises(
        ValueError, match="none of the 10 training records has a token for the loss"
    ):
        data.prepare(config(path, path, max_tokens=length, allow_cut_responses=True), Words())
    fits = config(path, path, max_tokens=length + 1, allow_cut_responses=True)
    without = [line.split()[6] for line in data.prepare(fits, Words()).lines[2].splitlines()[1:]]
    assert without == ["0", "0"]


def test_an_empty_set_is_one_error():
    for name in ("training", "held-out"):
        with pytest.raises(ValueError, match=f"there are no {name} records; check config.data"):
            data.require_targets([], DataConfig("x"), name)


@pytest.mark.parametrize(
    ("recipe", "cut"), [("commonsense", True), ("convai2", True), ("math10k", True)]
)
def test_recipes_of_the_paper_cut_as_it_does(recipe, cut):
    module = __import__(f"configs.{recipe}", fromlist=["get_config"])
    made = module.get_config()
    made.model.path = made.data.path = "-"
    assert parse(made).data.allow_cut_responses is cut
    base = default("tera")
    base.model.path = base.data.path = "-"
    assert parse(base).data.allow_cut_responses is False
