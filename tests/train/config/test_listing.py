"""``--print-config``."""

import itertools

import pytest

from tera_jax.methods import TABLE
from train.config import default, listing


@pytest.mark.parametrize("method", TABLE)
def test_every_field_has_value_default_and_meaning(method):
    config = default(method)
    config.optim.learning_rate = 0.25
    text = listing.listing(config)
    lines = text.splitlines()
    entries = dict(itertools.pairwise(lines))
    heads = [line for line in lines if line.startswith("config.")]
    keys = [head.partition(" = ")[0] for head in heads]
    tree = config.to_dict()
    expected = {"config.export"} | {
        f"config.{section}.{name}"
        for section in tree
        if section != "export"
        for name in tree[section]
    }
    assert set(keys) == expected
    assert len(keys) == len(expected)
    assert all(entries[head].startswith("    ") for head in heads)
    assert "config.optim.learning_rate = 0.25 (default: 0.001)\n    the highest" in text


def test_the_listing_refuses_a_wrong_key():
    config = default("tera")
    config.loop.step = 3
    with pytest.raises(ValueError, match=r"config.loop.step; did you mean config.loop.steps"):
        listing.listing(config)


def test_the_meaning_of_an_inherited_field_is_found():
    class Base:
        """Base.

        Attributes:
            first: one line
                and another.
            second: of the base.
        """

    class Child(Base):
        """Child.

        Attributes:
            second: of the child.

        Example:
            third: no field
        """

    docs = listing.field_docs(Child)
    assert docs == {"first": "one line and another.", "second": "of the child."}
