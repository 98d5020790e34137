import pytest

from tests.tera_jax.llama.family import models


@pytest.fixture(scope="session")
def family_path(tmp_path_factory):
    """Makes the checkpoint of a family once: ``family_path(family) -> directory``."""
    made = {}

    def make(family):
        if family not in made:
            made[family] = models.save(family, tmp_path_factory.mktemp(family))
        return made[family]

    return make
