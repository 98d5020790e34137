"""Many adapters in one run, on bases of other families."""

import pytest

from tests import parts
from tests.train.many_adapters import worlds
from train import many
from train.many_adapters import specification
from train.training import run as runs

FAMILIES = {
    "gemma2": {"head_dim": 16, "sliding_window": 8, "attn_logit_softcapping": 2.0},
    "phi3": {
        "bos_token_id": 1,
        "pad_token_id": 0,
        "original_max_position_embeddings": 16,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.5, 2.5, 3.5, 4.5],
        },
    },
}


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_are_what_they_are_alone(family, tmp_path):
    model = parts.tiny_llama(tmp_path / "model", model_type=family, **FAMILIES[family])
    file = worlds.write_people(tmp_path / "people", 2, steps=12)
    given = worlds.arguments(model, file, tmp_path / "run", "lora")
    many.main(given)
    found = specification.read(file, worlds.base(*given))
    run = runs.build(found[0].config)
    assert run.model.config.model_type == family
    last = []
    for each in found:
        *_, alone = worlds.require_alone(run, each, tmp_path / "run", 0.05, 1e-3)
        last.append(alone)
    assert worlds.distance(*last) > 0.05
