"""Tools beside the messages: templates that read them get them as transformers gives them."""

import copy
import json

import pytest

from tests.train.data.conversations.test_tool_calls import TURNS
from tests.train.data.marked import tokenizer
from train import data
from train.config import DataConfig
from train.data import records
from train.data.conversations import messages, templates, tool_calls, tools
from train.generation.style import Chat, Raw

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Forecast of a city, Łódź too.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "default": None}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
READS = (
    "{% if not tools is defined %}{% set tools = none %}{% endif %}"
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{% for c in m.tool_calls or [] %}"
    "[{{ c.function.name }}]{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""It sets ``tools`` where there are none, as Llama 3.1's template does."""
UNMARKED = READS.replace("{% generation %}", "").replace("{% endgeneration %}", "")
NAMES = "{# tools #}You have tools.{% for m in messages %}{{ m['content'] }}{% endfor %}"
"""A template that has the word, and does not read the variable."""
ROWS = [
    {"messages": TURNS, "tools": [WEATHER, CLOCK]},
    {"messages": TURNS, "tools": json.dumps([WEATHER])},
    {"messages": TURNS},
    {"messages": TURNS, "tools": []},
    {"conversations": TURNS, "tools": [WEATHER]},
    {"prompt": TURNS[:3], "completion": TURNS[3:], "tools": [WEATHER]},
]


@pytest.fixture
def template(tmp_path):
    """Writes a chat template, and gives the configuration that reads it."""

    def write(text, **fields):
        (tmp_path / "t.jinja").write_text(text)
        return DataConfig(
            path="-", prompt="auto", chat_template=str(tmp_path / "t.jinja"), **fields
        )

    return write


def by_transformers(row, template, **more):
    """What ``apply_chat_template`` makes of a record, whose content is text."""
    turns = row.get("messages") or row.get("conversations") or row["prompt"] + row["completion"]
    turns = [{**turn, "content": turn["content"] or ""} for turn in turns]
    given = row.get("tools") or None
    given = json.loads(given) if isinstance(given, str) else given
    return tokenizer().apply_chat_template(
        turns, tools=given, chat_template=template, return_dict=True, **more
    )


def tokens(rows, config):
    """Records that were read, with what each became."""
    return data.tokenize(records.of_rows(rows).records, tokenizer(), config)


@pytest.mark.parametrize("text", [READS, UNMARKED])
def test_ids_are_those_of_transformers(template, text):
    config = template(text)
    for rows in (ROWS[:4], ROWS[4:5], ROWS[5:]):
        found = tokens(rows, config)
        for row, example in zip(rows, found, strict=True):
            assert [*example.ids] == by_transformers(row, text)["input_ids"]
            learned = [one for one, loss in zip(*example, strict=True) if loss]
            assert "weather" not in tokenizer().decode(learned).partition("[")[0]
            assert "It stays dry." in tokenizer().decode(learned)
    one, other, none, empty = ([*example.ids] for example in tokens(ROWS[:4], config))
    assert none == empty
    assert len({*map(tuple, (one, other, none))}) == 3


def test_masks_are_those_of_transformers_where_the_template_has_marks(template):
    for row, example in zip(ROWS[:4], tokens(ROWS[:4], template(READS)), strict=True):
        expected = by_transformers(row, READS, return_assistant_tokens_mask=True)
        assert [*example.mask] == expected["assistant_masks"]


def test_a_tokenizer_may_have_a_template_for_tools():
    several = copy.deepcopy(tokenizer())
    several.chat_template = {"default": templates.CHATML, "tool_use": READS}
    found = data.tokenize(
        records.of_rows(ROWS[1:3]).records, several, DataConfig(path="-", prompt="auto", loss="all")
    )
    for row, example, text in zip(ROWS[1:3], found, (READS, templates.CHATML), strict=True):
        turns = row["messages"] if "tools" in row else _with_text(row["messages"])
        expected = by_transformers({**row, "messages": turns}, text)["input_ids"]
        assert [*example.ids] == expected


def _with_text(turns):
    """Calls as text: CHATML reads none."""
    return [tool_calls.as_text(turn) for turn in messages.parsed(turns, "messages")]


@pytest.mark.parametrize("text", [templates.CHATML, NAMES])
def test_a_template_that_does_not_read_them_refuses_the_record(template, text):
    message = (
        r"record 1 has 'tools', which the chat template does not read; write them into the "
        r"system turn, take them out, or set config\.data\.chat_template"
    )
    rows = [ROWS[2], ROWS[0], ROWS[2]]
    with pytest.raises(ValueError, match=message):
        tokens(rows, template(text))
    assert len(tokens(rows, template(text, skip_bad_rows=True))) == 2
    with pytest.raises(ValueError, match="has 'tools', which the chat template does not read"):
        data.encode_prompts([ROWS[0]], tokenizer(), template(text))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (READS, True),
        (templates.CHATML, False),
        (NAMES, False),
        ("{% for t in tools %}{% if t %}{% break %}{% endif %}{% endfor %}", True),
        ("{% macro show(tools) %}{{ tools }}{% endmacro %}{{ show(messages) }}", False),
        ("{% if tools %", True),
        ("{{ message.tools }}", False),
    ],
)
def test_what_reads_tools_is_known(text, read):
    assert tools.are_read(text) == read


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("weather", "has no list of tools in field 'tools', but another text"),
        ({"name": "weather"}, "has no list of tools in field 'tools', but {'name': 'weather'}"),
        ([WEATHER, 3], "has 3 as tool 1 of field 'tools'; it must be an object with 'function'"),
        ([{"type": "web_search"}], "has {'type': 'web_search'} as tool 0"),
        (
            [{"name": "\ud83d"}],
            "has half a character, the .* U\\+D83D, in field 'tools'",
        ),
    ],
)
def test_other_tools_are_refused_by_name(given, message):
    with pytest.raises(ValueError, match=f"record 0 of records {message}"):
        records.of_rows([{"messages": TURNS, "tools": given}])
    with pytest.raises(ValueError, match="has something in field 'tools', which"):
        records.of_rows([{"prompt": "a", "completion": "b", "tools": [WEATHER]}])


def test_tools_count_as_part_of_the_records_and_none_as_before():
    with_tools, without, empty = (
        records.of_rows([{"messages": TURNS, **more}])
        for more in ({"tools": [WEATHER]}, {}, {"tools": "[]"})
    )
    assert with_tools.identity != without.identity == empty.identity
    assert without.identity == "4b385e7f0d720e6d"
    assert "(messages, tools)" in with_tools.describe()


def test_a_prompt_for_an_answer_has_them_too(template):
    asked = TURNS[:3]
    turns = [{**turn, "content": turn["content"] or ""} for turn in asked]
    expected = tokenizer().apply_chat_template(
        turns, tools=[WEATHER], chat_template=READS, add_generation_prompt=True
    )["input_ids"]
    row = {"messages": asked, "tools": [WEATHER]}
    assert data.encode_prompts([row], tokenizer(), template(READS)) == [expected]
    plain = {"messages": [asked[0]], "tools": [WEATHER]}
    (expected,) = data.encode_prompts([plain], tokenizer(), template(READS))
    chat = Chat(tokenizer(), template(READS), READS)
    assert chat.ids(plain) == expected != chat.ids({"messages": [asked[0]]})
    with pytest.raises(ValueError, match="has 'tools', which only messages in a chat template"):
        chat.ids({"prompt": "a", "tools": [WEATHER]})
    with pytest.raises(ValueError, match="has 'tools', which only messages in a chat template"):
        Raw(tokenizer()).ids(plain)
