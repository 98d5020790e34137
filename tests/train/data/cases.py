"""Records of every kind that ``auto`` reads, with the text and the loss that each becomes."""

import json

from tests.train.data.marked import SYSTEM, chat, tokenizer
from train import data
from train.config import ColumnsConfig, DataConfig
from train.data import records

TURNS = [
    {"role": "user", "content": "What is red?"},
    {"role": "assistant", "content": "the sun"},
    {"role": "user", "content": "And blue?"},
    {"role": "assistant", "content": "the sea"},
]
SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
    for turn in TURNS
]
BOTH = chat("user: What is red?", "assistant!: the sun", "user: And blue?", "assistant!: the sea")
SECOND = chat("user: What is red?", "assistant: the sun", "user: And blue?", "assistant!: the sea")
BRIEF = "<|im_start|>system\nBe brief.<|im_end|>\n"
EOS = "<|im_end|>"


def example(record, columns=None, **fields):
    columns = ColumnsConfig(**(columns or {}))
    config = DataConfig("x", **{"prompt": "auto", "columns": columns, **fields})
    source = records.of_rows([record], config.prompt, columns)
    (found,) = data.tokenize(source.records, tokenizer(), config)
    return found


KINDS = {
    "alpaca": (
        {"instruction": "Name a cat.", "output": "one"},
        chat("user: Name a cat.", "assistant!: one"),
    ),
    "alpaca with an empty input": (
        {"instruction": "Name a cat.", "input": " ", "output": "one"},
        chat("user: Name a cat.", "assistant!: one"),
    ),
    "alpaca with an input": (
        {"instruction": "Say it.", "input": "the sea", "output": "sea"},
        chat("user: Say it.\n\nthe sea", "assistant!: sea"),
    ),
    "alpaca with system and history": (
        {
            "instruction": "And blue?",
            "output": "the sea",
            "system": "Be brief.",
            "history": [["What is red?", "the sun"]],
        },
        BOTH.replace(SYSTEM, BRIEF),
    ),
    "prompt/completion": (
        {"prompt": "What is red?", "completion": "the sun"},
        chat("user: What is red?", "assistant!: the sun"),
    ),
    "prompt/completion of messages": (
        {"prompt": TURNS[:3], "completion": TURNS[3:]},
        SECOND,
    ),
    "messages": ({"messages": TURNS}, BOTH),
    "messages with system and tool": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                TURNS[0],
                {"role": "tool", "content": "one"},
                TURNS[1],
            ]
        },
        chat("user: What is red?", "tool: one", "assistant!: the sun", system=BRIEF),
    ),
    "messages in parts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "What is "}, {"text": "red?"}],
                },
                TURNS[1],
            ]
        },
        chat("user: What is red?", "assistant!: the sun"),
    ),
    "messages that end with the user": (
        {"messages": TURNS[:3]},
        chat("user: What is red?", "assistant!: the sun", "user: And blue?"),
    ),
    "messages as JSON": ({"messages": json.dumps(TURNS)}, BOTH),
    "conversations": ({"conversations": SHAREGPT}, BOTH),
    "conversations with system": (
        {"conversations": SHAREGPT, "system": "Be brief."},
        BOTH.replace(SYSTEM, BRIEF),
    ),
    "conversations with tools": (
        {
            "conversations": [
                SHAREGPT[0],
                {"from": "function_call", "value": "see()"},
                {"from": "observation", "value": "one"},
                SHAREGPT[1],
            ]
        },
        chat("user: What is red?", "assistant!: see()", "tool: one", "assistant!: the sun"),
    ),
    "text": ({"text": "The sky is blue."}, f"⟦The sky is blue.{EOS}⟧"),
    "text with its end": ({"text": f"The sky.{EOS}"}, f"⟦The sky.{EOS}⟧"),
}
