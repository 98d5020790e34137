import dataclasses
from typing import Literal

import pytest

from tera_jax.methods.base import Site, check_choices


@dataclasses.dataclass(frozen=True)
class Settings:
    init: Literal["normal", "uniform"] = "normal"
    gain: float = 1.0


def test_choices_are_checked():
    check_choices(Settings("uniform"))
    with pytest.raises(ValueError, match=r"init 'xavier'; choose one of \('normal', 'uniform'\)"):
        check_choices(Settings("xavier"))


def test_a_site_is_named_by_its_path():
    assert Site(("layers", "q_proj"), (4, 4)).name == "layers/q_proj"
