"""The study of the paper's ablations: what it compares, and what the committed runs have of it."""

import itertools
import math
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import methods
from benchmarks.study import OnBase, progress
from benchmarks.variants import CHOICES, METHODS, SCHEMES, groups, variants
from configs.studies import schemes
from tera_jax.network.tensorization import Tensorization
from train.evaluation import tables
from train.params.count import count
from train.studies import loop, schema
from train.studies.jobs.job import Job
from train.studies.variants import Variant

PAGE = Path(methods.__file__).parents[1] / "docs" / "studies.md"
COMMITTED = Path(methods.__file__).parent / "results" / "methods.jsonl"
PATHS = {"GSM8K": "g.json", "ConvAI2": "c.txt"}
LAYERS = 30
MODULES = {"q_proj": (576, 576), "k_proj": (576, 192), "v_proj": (576, 192), "o_proj": (576, 576)}
MODULES |= {"gate_proj": (576, 1536), "up_proj": (576, 1536), "down_proj": (1536, 576)}
MEASURED = {
    "tera",
    "tera init=orthogonal",
    "tera init=orthogonal targets=v_proj+o_proj",
    "tera_iden",
    "tera gain=1.0",
    "tera gain=1.0 sharing=module",
    "tera_unique gain=1.0",
    "tera_iden gain=1.0",
    "tera side=in zero_init_mode=longest",
}
"""Of the committed runs, beside the scheme of all seven modules at an equal count."""


def trained(variant: Variant) -> int:
    """The sum of the modes of each layer's scheme, from the text alone."""
    settings = variant.settings()
    found = [Tensorization.parse(text) for text in settings["tensorizations"]]
    sums = {each.shape: sum(each.in_modes + each.out_modes) for each in found}
    return LAYERS * sum(
        sums[MODULES[name]] for name in settings.get("targets", ("q_proj", "v_proj"))
    )


def test_one_factor_differs_from_the_default():
    assert len(SCHEMES) == len({variant.name for variant in SCHEMES}) == 28
    default = {"tensorizations": ("576|24x24", "576|12x16"), "init": "orthogonal"}
    assert SCHEMES[0].settings() == default
    changed = {
        "order": ({"tensorizations"}, {"tensorizations", "side"}),
        "targets": ({"tensorizations", "targets"}, {"targets"}),
        "init": ({"init"},),
        "sharing": ({"sharing"}, set()),  # tera_unique is a row of its own
    }
    for group, specs in schemes.GROUPS.items():
        if group == "default" or group.startswith("as published"):
            continue
        for variant in variants(specs):
            fields = {**variant.settings()}
            differ = {name for name in {*default, *fields} if fields.get(name) != default.get(name)}
            assert differ in changed[group.partition(",")[0]], variant.name


def test_the_modes_of_every_order_multiply_out_to_the_kernel():
    orders = Counter()
    for specs in (each for name, each in schemes.GROUPS.items() if name.startswith("order")):
        for variant in variants(specs):
            found = map(Tensorization.parse, variant.settings()["tensorizations"])
            query, value = found
            assert (query.shape, value.shape) == ((576, 576), (576, 192))
            assert query.order == value.order
            orders[query.order] += 1
    assert orders == {2: 1, 3: 1, 4: 3, 6: 1, 7: 2, 8: 2, 14: 1}
    # No side is a power of two: 576 = 2^6 9 and 192 = 2^6 3.
    assert all(math.log2(side) % 1 for side in (576, 192))


@pytest.mark.parametrize("name", ["tera side=in init=orthogonal", SCHEMES[11].name])
def test_the_counts_are_those_of_the_model(name):
    variant = next(each for each in SCHEMES if each.name == name)
    assert count("smollm2-135m", variant.method, variant.settings()).trained == trained(variant)


def test_what_is_measured_is_taken_and_the_rest_is_to_run():
    results = OnBase(COMMITTED, methods.STEPS, "none")
    study = methods.study("m", PATHS, SCHEMES)
    at_equal_count = next(each.name for each in SCHEMES if "12x128" in each.name)
    for task, variant in itertools.product(PATHS, SCHEMES):
        there = bool(loop.skipped(Job(variant.name, task), study, results))
        assert there == (variant.name in MEASURED | {at_equal_count}), variant.name
        rows = {run.trained for run in results.of(variant.name, task)}
        assert rows <= {trained(variant)}
    # A name means one thing in both lists: only where the search begins may differ.
    known = {variant.name: variant for variant in (*METHODS, *CHOICES)}
    for variant in SCHEMES:
        if variant.name in known:
            assert variant.settings() == known[variant.name].settings()


def test_the_list_says_what_there_is(tmp_path):
    some = variants((schemes.METHODS[0], schemes.METHODS[1]))
    study = methods.study("m", PATHS, some)
    lines = progress(groups(), study, OnBase(COMMITTED, methods.STEPS, "none")).splitlines()
    assert lines[2:] == [
        "| default | `tera init=orthogonal` | 36,840 | measured | measured |",
        r"| order, outputs split | `tera tensorizations=576\|576+576\|192 init=orthogonal` "
        "| 57,600 | to run | to run |",
    ]
    first = OnBase(COMMITTED, methods.STEPS, "none").of(some[0].name, "GSM8K")[0]
    results = OnBase(tmp_path / "r.jsonl", methods.STEPS, "none")
    results.append(first)
    lines = progress(groups(), study, results).splitlines()
    assert lines[2].endswith("| 1 runs, unfinished | to run |")


def test_train_compare_reads_the_same_study(monkeypatch):
    tree = schema.load("schemes")
    for task in tree["tasks"]:
        task["path"] = PATHS[task["name"]]
    found = schema.make(schema.build({**tree, "model": "m"}))
    assert [each.settings() for each in found.variants] == [each.settings() for each in SCHEMES]
    assert found.config.baseline == found.variants[0].name
    monkeypatch.setattr(
        sys, "argv", ["methods", "--schemes", "--only", "lora", f"--output={COMMITTED}"]
    )
    with pytest.raises(SystemExit):
        methods.main()


def test_the_page_has_the_figures_of_the_results():
    lines = PAGE.read_text().splitlines()
    known = (Path(__file__).parent / "methods_table.md").read_text().splitlines()
    rows = {line.split(" | ")[0]: line.split(" | ") for line in known}
    shown = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `tera")]
    assert len(shown) == 9
    for name, count_, gsm8k, convai2 in shown:
        cells = rows[f"| {name}"]
        assert [count_, gsm8k, convai2] == [cells[1], cells[3], cells[6]]
    assert f"Ten of the {len(SCHEMES)} are measured" in PAGE.read_text()
    computed = [line.split(" | ") for line in tables.paper(exact=True).splitlines()]
    page = [line.split(" | ") for line in lines]
    tests = [line[1:] for line in computed if line[0] == "| TeRA"]
    assert len(tests) == 7
    assert all([f"| {line[0]}", *line[1:]] in page for line in tests)
    # Each scheme of the study and its count stand in the table.
    text = PAGE.read_text()
    assert [each.name for each in SCHEMES if f"{trained(each):,}" not in text] == []
