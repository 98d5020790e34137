"""Every number of every section and of every method is held to its range."""

import dataclasses
import math
import typing

import pytest

from tera_jax.methods import TABLE
from train.config import default, parse
from train.config.schema import classes

HUGE = 2**63
MAY_BE_NEGATIVE = {"decoding.length_penalty", "method.zero_init_mode", "method.d_initial"}
MAY_BE_ZERO = {
    "decoding.length_penalty", "decoding.no_repeat_ngram_size", "decoding.top_k",
    "optim.warmup_steps", "optim.weight_decay", "optim.b1", "optim.b2",
    "optim.momentum", "loop.min_delta",
    "data.split_seed", "loop.seed", "evaluate.seed", "method.seed",
    "method.dropout", "method.kernel_rank", "method.niter", "model.kept_layers",
}  # fmt: skip
BELOW_ONE = {"optim.b1", "optim.b2", "optim.momentum", "optim.ema_decay", "method.dropout"}


def filled(method):
    config = default(method)
    config.model.path, config.data.path = "some/model", "records.json"
    return config.to_dict()


def numbers():
    """Method, section, field and type of every field that holds a number; sections once."""
    for method in TABLE:
        for section, cls in classes(method).items():
            if method != "tera" and section != "method":
                continue
            hints = typing.get_type_hints(cls)
            for field in dataclasses.fields(cls):
                kinds = {hints[field.name], *typing.get_args(hints[field.name])}
                kind = next((kind for kind in (float, int) if kind in kinds), None)
                if kind is not None:
                    yield method, section, field.name, kind


NUMBERS = list(numbers())


def refused(kind, key):
    """Values that no field of a kind takes, and those that this one does not."""
    values = [HUGE, -HUGE] if kind is int else [math.nan, math.inf, -math.inf, 1e39, -1e39]
    if key not in MAY_BE_NEGATIVE:
        values.append(kind(-1))
    if key not in MAY_BE_NEGATIVE | MAY_BE_ZERO or key in ("method.zero_init_mode",):
        values.append(kind(0))
    return values + ([1.0, 1 - 1e-9] if key in BELOW_ONE - {"method.dropout"} else [])


def changed(method, section, name, value):
    tree = filled(method)
    if section == "data" and name != "packed_length":
        tree["data"]["packed_length"] = None
    if section == "loop" and name == "epochs":
        tree["loop"]["steps"] = None
    tree[section][name] = (value,) if isinstance(tree[section][name], tuple) else value
    return tree


@pytest.mark.parametrize(
    ("method", "section", "name", "kind"),
    NUMBERS,
    ids=[f"{method}-{section}.{name}" for method, section, name, _ in NUMBERS],
)
def test_no_number_leaves_its_range(method, section, name, kind):
    parse(filled(method))
    for value in refused(kind, f"{section}.{name}"):
        with pytest.raises(ValueError, match=rf"(config\.)?{section}.*\b{name}\b"):
            parse(changed(method, section, name, value))


def test_the_table_has_the_fields_that_went_wrong():
    keys = {f"{section}.{name}" for _, section, name, _ in NUMBERS}
    assert {"optim.clip_norm", "optim.b1", "loop.seed", "method.seed", "method.alpha"} <= keys
    assert len(NUMBERS) > 60


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("optim", "b1", 0.0),
        ("optim", "b2", 1 - 2.0**-24),
        ("optim", "eps", 2.0**-126),
        ("optim", "clip_norm", 1e-30),
        ("optim", "warmup_steps", 0),
        ("loop", "seed", 2**32 - 1),
        ("decoding", "length_penalty", -2.0),
        ("method", "zero_init_mode", -1),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(section, name, value):
    assert getattr(parse(changed("tera", section, name, value)), section)
