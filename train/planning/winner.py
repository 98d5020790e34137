"""A file for ``--config=FILE`` of ``train.main`` that trains a scheme."""

import pprint
from typing import Any

from ..config import default, to_dict
from ..studies.schema import Study
from ..studies.variants import Variant
from .candidates import METHOD

_SECTIONS = ("model", "data", "method", "optim", "loop", "evaluate", "decoding")
_FILE = '''"""{title}

    {command}
"""

import ml_collections

import tera_jax

_FIELDS = {fields}


def get_config() -> ml_collections.ConfigDict:
    """The configuration; --print-config lists every field."""
    config = tera_jax.default_config({method!r})
    for key, value in _FIELDS.items():
        section, name = key.split(".")
        config[section][name] = value
    return config
'''


def of_recipe(tree: dict[str, Any], variant: Variant, model: str | None) -> dict[str, Any]:
    """The configuration of a recipe with a scheme, as plain values.

    Args:
        tree: of the recipe.
        variant: the scheme.
        model: path of the base; None leaves it to the flags.
    """
    method = {**tree["method"], **variant.settings()}
    found = {**tree, "method": method}
    return found if model is None else {**found, "model": {**tree["model"], "path": model}}


def of_study(study: Study, variant: Variant, rate: float) -> dict[str, Any]:
    """The configuration of a run of a study, on its first task."""
    tree = to_dict(study.run(variant, study.config.tasks[0]))
    return {**tree, "optim": {**tree["optim"], "learning_rate": rate}}


def source(tree: dict[str, Any], title: str, command: str) -> str:
    """The text of the file.

    Args:
        tree: the configuration as plain values.
        title: what it trains, a sentence.
        command: that trains it.
    """
    usual = default(METHOD).to_dict()
    fields = {
        f"{section}.{name}": value
        for section in _SECTIONS
        for name, value in tree[section].items()
        if value != usual[section][name]
    }
    shown = pprint.pformat(fields, width=96, sort_dicts=False)
    return _FILE.format(title=title, command=command, fields=shown, method=METHOD)
