"""docs/configuration.md is what the classes of the configuration say."""

import dataclasses
from pathlib import Path

import pytest

from tera_jax.methods import TABLE
from train.config import page, sections
from train.config.schema import keys

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page.page() + "\n", "python -m train.config.page prints it"


@pytest.mark.parametrize("method", TABLE)
def test_every_key_is_on_the_page(method):
    text = page.page()
    for key in keys(method):
        section, _, name = key.removeprefix("config.").partition(".")
        assert f"## config.{section}" in text
        assert not name or f"`{name.split('.')[-1]}`" in text


def test_another_default_and_meaning_is_another_row():
    @dataclasses.dataclass(frozen=True)
    class Changed(sections.MeshConfig):
        """As it is.

        Attributes:
            data: of ``another`` meaning | as :data:`it` is.
        """

        data: int | None = 2

    assert "| `data` | int | `1` | parts" in "\n".join(page._table(sections.MeshConfig))
    assert r"| `data` | int or None | `2` | of `another` meaning \| as `it` is. |" in [
        *page._table(Changed)
    ]
