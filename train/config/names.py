"""The keys of a configuration: those there are, those there were, and what a wrong one may mean."""

import difflib
from collections.abc import Collection

RENAMED = {
    "data.loss_on": "data.train_on_prompt",
    "data.packed_tokens": "data.packed_length",
    "evaluate.rows": "evaluate.limit",
    "loop.accumulate": "loop.grad_accum_steps",
    "method.core": "method.structure",
    "method.parts": "method.num_modes",
    "method.wide": "method.structure",
    "method.zero": "method.zero_init_mode",
}
"""Old key -> new key."""


def require_known(key: str, known: Collection[str]) -> None:
    """Raise ``ValueError`` for a key that is not known, with the nearest ones or its new name.

    Args:
        key: such as ``config.loop.steps``.
        known: all keys there are, as long.
    """
    if key not in known:
        raise ValueError(f"unknown config key {key}; {_remedy(key, known)}")


def _remedy(key: str, known: Collection[str]) -> str:
    section, _, name = key.rpartition(".")
    root = "config." * key.startswith("config.")
    successor = root + RENAMED.get(key.removeprefix(root), "")
    if successor in known:
        return f"it is called {successor} now"
    siblings = _below(section, known)
    near = [f"{section}.{other}" for other in difflib.get_close_matches(name, siblings)]
    near += [other for other in sorted(known) if other.rpartition(".")[2] == name]
    if not near:  # the section may be wrong too
        short = {other.removeprefix(root): other for other in known}
        near = [short[other] for other in difflib.get_close_matches(key.removeprefix(root), short)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    if not siblings:
        section = section.partition(".")[0]
        siblings = _below(section, known)
    return f"the keys of {section} are {', '.join(sorted(siblings))}"


def _below(section: str, known: Collection[str]) -> set[str]:
    """The names that follow a section's in the keys."""
    start = f"{section}."
    return {key.removeprefix(start).partition(".")[0] for key in known if key.startswith(start)}
