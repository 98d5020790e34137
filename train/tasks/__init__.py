"""Prompts, answers and scoring rules of the benchmarks."""

from collections.abc import Mapping
from typing import Any

from train.tasks import commonsense, convai2


def prompt(record: Mapping[str, Any], style: str, history: int) -> str:
    """The text that the model completes, in the style of ``DataConfig.prompt``."""
    if style == "convai2":
        return convai2.prompt(record["persona"], record["history"], history)
    return commonsense.prompt(record["instruction"], style)


def response(record: Mapping[str, Any], style: str) -> str:
    """The text that follows the prompt at once."""
    return " " * (style == "convai2") + record["output"]


def fields(style: str) -> dict[str, type]:
    """What a record needs for a style of prompt: each field and its type."""
    return {"persona": list, "history": list} if style == "convai2" else {"instruction": str}
