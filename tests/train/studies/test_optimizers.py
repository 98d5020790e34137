"""A study by another optimizer, and at rates of groups of arrays."""

import json

import pytest

from train import compare

LION = ("optim.optimizer=lion", "optim.weight_decay=0.1")


def losses(flags, output, *settings):
    extra = [f"--set={each}" for each in settings]
    compare.main([*flags, f"--output={output}", "--methods", "lora:rank=2", *extra])
    rows = map(json.loads, (output / "results.jsonl").read_text().splitlines())
    return {(row["variant"], row["seed"]): row["validation"] for row in rows}


@pytest.mark.long
def test_lion_and_rates_of_groups_reach_the_runs_of_a_study(flags, tmp_path):
    flags = [each for each in flags if not each.startswith("--seeds")] + ["--seeds=1"]
    still = losses(flags, tmp_path / "still", *LION, "optim.rate_factors=('*=0',)")
    assert still["lora:rank=2", 0] == still["base", 0]
    lion = losses(flags, tmp_path / "lion", *LION)
    groups = losses(flags, tmp_path / "groups", *LION, "optim.rate_factors=('lora/b=3',)")
    assert len({each["lora:rank=2", 0] for each in (still, lion, groups)}) == 3
    with pytest.raises(FileExistsError, match=r"optim\.optimizer: 'lion' -> 'adamw'"):
        losses(flags, tmp_path / "lion")


def test_a_group_that_names_no_array_fails_the_method_by_name(flags, tmp_path):
    with pytest.raises((SystemExit, ValueError), match="rate_factors has 'k_proj'"):
        losses(flags, tmp_path / "none", "optim.rate_factors=('k_proj=2',)")
