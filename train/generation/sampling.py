"""How answers are decoded: what is asked for, and else what the base's makers recommend."""

from collections.abc import Mapping
from typing import Any

from tera_jax.llama import GenerationConfig, load_generation_config
from tera_jax.llama.text import configured

NEW_TOKENS = 256
"""The longest answer where neither the user nor the base says another."""
_DRAWS = ("temperature", "top_p", "top_k")


def decoding(base: str, given: Mapping[str, Any]) -> tuple[GenerationConfig, tuple[str, ...]]:
    """The configuration of a base's answers.

    Any of ``temperature``, ``top_p`` and ``top_k`` draws the tokens; ``temperature=0`` takes the
    most likely, and so does beam search.

    Args:
        base: path or hub name of the base.
        given: fields of :class:`tera_jax.llama.GenerationConfig`; None is not given.

    Returns:
        the configuration, and ``key=value`` of what the base's file asks for and is not used.

    Raises:
        FileNotFoundError: for a base that is not there.
        TypeError: for an unknown field.
        ValueError: for fields that do not fit each other.
    """
    defaults, unused = load_generation_config(base, NEW_TOKENS)
    chosen = {name: value for name, value in given.items() if value is not None}
    if "do_sample" not in chosen:
        if chosen.keys() & {*_DRAWS}:
            chosen["do_sample"] = chosen.get("temperature") != 0
        elif chosen.get("num_beams", 1) > 1:
            chosen["do_sample"] = False
    if chosen.get("temperature") == 0 and not chosen.get("do_sample"):
        chosen["temperature"] = 1.0
    if chosen.get("do_sample"):
        chosen.setdefault("num_beams", 1)
    return configured(defaults, chosen), unused
