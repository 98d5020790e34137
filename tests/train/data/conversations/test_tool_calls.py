"""Calls of tools: as transformers gives them to templates that read them, else as text."""

import json

import pytest

from tests.train.data.marked import ids_and_mask, tokenizer
from train.data import records
from train.data.conversations import chat, tool_calls
from train.data.conversations.messages import Turns, parsed

CALL = {"name": "weather", "arguments": {"city": "Łódź", "days": 2}}
OPENAI = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": json.dumps(CALL["arguments"])},
}
TURNS = [
    {"role": "user", "content": "Will it rain?"},
    {"role": "assistant", "content": None, "tool_calls": [OPENAI]},
    {"role": "tool", "content": "no", "tool_call_id": "call_1"},
    {"role": "assistant", "content": "It stays dry."},
]
READS_CALLS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }}({{ c.function.arguments.days }})]"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WRITTEN = '<tool_call>\n{"name": "weather", "arguments": {"city": "Łódź", "days": 2}}\n</tool_call>'


def rendered(turns, template=None):
    (found,) = chat.render(tokenizer(), [Turns(parsed(turns, "messages"))], template)
    return found


def test_a_template_that_reads_calls_gets_them_as_transformers_does():
    plain = [TURNS[0], {**TURNS[1], "content": "", "tool_calls": [{"function": CALL}]}, *TURNS[2:]]
    expected = tokenizer().apply_chat_template(plain, chat_template=READS_CALLS)["input_ids"]
    found = rendered(TURNS, READS_CALLS)
    assert found.ids == expected
    assert "[weather(2)]" in tokenizer().decode(found.ids)
    learned = [one for one, loss in zip(found.ids, found.mask, strict=True) if loss]
    assert tokenizer().decode(learned) == "[weather(2)]<|im_end|>\nIt stays dry.<|im_end|>\n"
    more = {**OPENAI, "function": {"name": "weather", "arguments": '{"days": 3}'}}
    assert rendered([TURNS[0], {**TURNS[1], "tool_calls": [more]}], READS_CALLS).ids != expected


def test_another_template_gets_them_as_text():
    text = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWill it rain?<|im_end|>\n<|im_start|>assistant\n"
        f"⟦{WRITTEN}<|im_end|>\n⟧<|im_start|>tool\nno<|im_end|>\n<|im_start|>assistant\n"
        "⟦It stays dry.<|im_end|>\n⟧"
    )
    assert rendered(TURNS) == ids_and_mask(text)


def test_a_prompt_that_has_calls_has_the_same_text():
    turns = Turns(parsed(TURNS[:3], "messages"))
    asked = tokenizer().decode(chat.prompt_ids(tokenizer(), turns))
    assert asked.endswith(
        f"<|im_start|>assistant\n{WRITTEN}<|im_end|>\n<|im_start|>tool\nno<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert WRITTEN not in tokenizer().decode(chat.prompt_ids(tokenizer(), turns, READS_CALLS))


def test_what_is_said_beside_a_call_stays_before_it():
    said = {"role": "assistant", "content": "I look.", "tool_calls": [{"function": CALL}] * 2}
    assert tool_calls.as_text(said)["content"] == f"I look.\n{WRITTEN}\n{WRITTEN}"
    assert tool_calls.as_text(TURNS[0]) is TURNS[0]


def test_the_earlier_form_of_openai_is_the_same_call():
    earlier = {"role": "assistant", "content": None, "function_call": OPENAI["function"]}
    (one,), (other,) = parsed([earlier], "x"), parsed([TURNS[1]], "x")
    assert one["tool_calls"][0]["function"] == other["tool_calls"][0]["function"] == CALL
    assert other["tool_calls"][0]["id"] == "call_1"


def test_arguments_that_are_no_object_stay_as_they_are():
    call = {"name": "say", "arguments": "not { json"}
    (one,) = parsed([{"role": "assistant", "tool_calls": [call]}], "x")
    assert one["tool_calls"][0]["function"] == call


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (
            {"tool_calls": [{"id": 1}]},
            "has .* as a tool call in message 1 .*; it must be an object",
        ),
        ({"tool_calls": "weather"}, "has 'weather' as 'tool_calls' of message 1 .* must be a list"),
        (
            {"tool_calls": [{"name": "a", "arguments": 3}]},
            "has 3 as arguments of the tool call 'a'",
        ),
        ({"role": "tool", "tool_calls": [CALL]}, r"has tool calls in message 1 .*\(tool\); only"),
        ({"tool_calls": [{"name": "\ud83d"}]}, "lone surrogate"),
    ],
)
def test_other_calls_are_refused_by_name(turn, message):
    turns = [TURNS[0], {"role": "assistant", "content": "", **turn}]
    with pytest.raises(ValueError, match=f"record 0 of records .*{message}"):
        records.of_rows([{"messages": turns}])
