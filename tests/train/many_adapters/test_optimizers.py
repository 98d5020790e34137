"""Many adapters in one run by other optimizers, and at rates of groups of arrays."""

import jax
import numpy as np
import pytest

from tests.train.many_adapters import worlds
from train import many
from train.many_adapters import specification
from train.training import run as runs

GIVEN = (
    "--config.optim.optimizer=lion",
    "--config.optim.rate_factors=('q_proj=0', 'lora/b=2')",
    "--config.optim.weight_decay=0.1",
    "--config.optim.weight_decay_mask=('lora/b',)",
)


@pytest.mark.long
def test_lion_and_rates_of_groups_train_each_adapter_as_it_is_alone(tiny_llama, tmp_path):
    file = worlds.write_people(tmp_path / "people", 2, steps=12)
    given = worlds.arguments(tiny_llama, file, tmp_path / "run", "lora", *GIVEN)
    many.main(given)
    found = specification.read(file, worlds.base(*given))
    run = runs.build(found[0].config)
    for each in found:
        loaded, first, _ = worlds.require_alone(run, each, tmp_path / "run", 0.05, 1e-3)
        still = [
            np.array_equal(before, after)
            for before, after in zip(*map(jax.tree.leaves, (first, loaded["d"])), strict=True)
        ]
        paths = [
            jax.tree_util.keystr(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(first)
        ]
        assert {path for path, same in zip(paths, still, strict=True) if same} == {
            path for path in paths if "q_proj" in path
        }


def test_a_group_that_names_no_array_is_refused(tiny_llama, tmp_path):
    file = worlds.write_people(tmp_path / "people", 1)
    wrong = "--config.optim.rate_factors=('k_proj=2',)"
    with pytest.raises(ValueError, match="rate_factors has 'k_proj', which names no array of d"):
        many.main(worlds.arguments(tiny_llama, file, tmp_path / "run", "lora", wrong))
