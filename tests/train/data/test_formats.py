"""Kinds of records: what of a record is used, and what is refused."""

import typing

import pytest

from train import tasks
from train.config import DataConfig
from train.data import formats

ALPACA = formats.of_template("hira")
CONVAI2 = formats.of_template("convai2")
RECORD = {"instruction": "Name a colour.", "output": "red"}
TURN = {"persona": ["i ski."], "history": ["hi !"], "output": "hello ."}


def test_every_template_of_the_configuration_has_one_kind():
    templates = [name for row in formats.TABLE for name in row.templates]
    assert {*templates} == {"auto", "plain", "convai2", "hira", "llm-adapters"}
    assert {*templates} == {*typing.get_args(typing.get_type_hints(DataConfig)["prompt"])}
    for name in ("convai2", "hira", "llm-adapters"):
        assert templates.count(name) == 1
    assert formats.of_template("llm-adapters") is ALPACA
    with pytest.raises(ValueError, match=r"config.data.prompt is 'x'; choose one of hira, llm-"):
        formats.of_template("x")


@pytest.mark.parametrize("value", [None, "", " \n", [], "absent"])
def test_an_empty_input_is_none(value):
    record = RECORD if value == "absent" else {**RECORD, "input": value}
    used = ALPACA.used(record, "hira")
    assert ALPACA.identity(used) == ALPACA.identity(RECORD)
    for style in ALPACA.templates:
        for inference in (False, True):
            expected = tasks.prompt(RECORD, style, inference=inference)
            assert tasks.prompt(used, style, inference=inference) == expected


def test_an_input_is_part_of_the_prompt_and_of_the_identity():
    used = ALPACA.used({**RECORD, "input": "not red"}, "hira")
    assert used["input"] == "not red"
    assert ALPACA.identity(used) != ALPACA.identity(RECORD)
    assert "not red" in tasks.prompt(used, "hira")


@pytest.mark.parametrize("value", [3, ["a"], {"a": 1}, True])
def test_an_input_that_is_no_text_is_refused(value):
    message = f"has a value of type {type(value).__name__} in field 'input'; it must be text"
    with pytest.raises(ValueError, match=message):
        ALPACA.used({**RECORD, "input": value}, "hira")


@pytest.mark.parametrize("field", ["instruction", "output"])
@pytest.mark.parametrize("value", [" \t\n", 3, ["a"], None])
def test_white_space_is_no_text(field, value):
    with pytest.raises(ValueError, match=f"has no text in field '{field}'"):
        ALPACA.used({**RECORD, field: value}, "hira")


@pytest.mark.parametrize(
    ("kind", "record", "field", "value"),
    [
        (ALPACA, RECORD, "system", "be brief"),
        (ALPACA, RECORD, "history", [["a", "b"]]),
        (ALPACA, RECORD, "context", "a passage"),
        (ALPACA, RECORD, "messages", [{"role": "user"}]),
        (ALPACA, RECORD, "rejected", "blue"),
        (ALPACA, RECORD, "image", "a.png"),
        (CONVAI2, TURN, "instruction", "answer"),
        (CONVAI2, TURN, "input", "answer"),
    ],
)
def test_what_another_kind_would_use_is_refused_unless_it_is_empty(kind, record, field, value):
    template = kind.templates[0]
    with pytest.raises(ValueError, match=f"has something in field '{field}', which config.data.pr"):
        kind.used({**record, field: value}, template)
    assert kind.used({**record, field: type(value)()}, template) == record


def test_other_columns_are_named():
    record = {**RECORD, "input": "", "text": "a", "answer": "red"}
    assert ALPACA.unused(record) == {"text", "answer"}


@pytest.mark.parametrize(("field", "value"), [("persona", "i ski."), ("history", [1])])
def test_persona_and_history_are_lists_of_texts(field, value):
    with pytest.raises(ValueError, match=f"has no list in field '{field}'"):
        CONVAI2.used({**TURN, field: value}, "convai2")


def test_half_a_character_is_refused():
    for record, kind, field in (
        ({**RECORD, "output": "a\ud83d"}, ALPACA, "output"),
        ({**RECORD, "input": "a\udc00"}, ALPACA, "input"),
        ({**TURN, "history": ["a", "b\ud800"]}, CONVAI2, "history"),
    ):
        with pytest.raises(ValueError, match=rf"lone surrogate U\+D[89C].., in field '{field}'"):
            kind.used(record, kind.templates[0])
    whole = {**RECORD, "output": "a \U0001f600"}
    assert ALPACA.used(whole, "hira") == whole


def test_identities_do_not_run_together():
    a = ALPACA.identity({"instruction": "ab", "output": "c"})
    b = ALPACA.identity({"instruction": "a", "output": "bc"})
    c = ALPACA.identity({"instruction": "a", "input": "b", "output": "c"})
    assert len({a, b, c}) == 3
