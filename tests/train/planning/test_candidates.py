"""Which schemes there are, that they are those the method makes of their settings, and counts."""

import json

import jax
import jax.numpy as jnp
import pytest

from tera_jax import save_adapter
from tera_jax.adapters.factory import select
from tera_jax.methods import TeRA
from tests import parts
from train.params import shapes
from train.params.count import count
from train.planning import budget, candidates, rules
from train.planning.budget import Budget


@pytest.fixture(scope="module")
def smollm():
    """Layouts of a model, and its layers."""
    config, found = shapes.sizes("smollm2-135m")
    return candidates.layouts(config, found), found


def settings(layout):
    given = candidates.Candidate(layout, "longest", "orthogonal").variant.settings()
    return given, given.pop("targets")


def test_the_method_makes_these_schemes_of_the_settings(smollm):
    layouts, found = smollm
    for layout in layouts[::9]:
        given, targets = settings(layout)
        adapter = select("tera", TeRA(**given), found, targets)
        assert [layer.path for layer in adapter.layers] == [each.path for each in layout.layers]
        made = tuple(adapter.method.scheme(layer) for layer in adapter.layers)
        assert made == layout.schemes


def test_counts_are_those_of_train_params(smollm):
    layouts, _ = smollm
    for layout in [layouts[20], next(x for x in layouts if "heads" in x.label), layouts[-1]]:
        given, targets = settings(layout)
        assert count("smollm2-135m", "tera", given, targets).trained == layout.trained


def test_there_are_all_orders_of_the_study_and_no_scheme_comes_twice(smollm):
    layouts, _ = smollm
    on_query = [each for each in layouts if each.targets == ("q_proj",)]
    schemes = [str(each.schemes[0]) for each in on_query]
    assert len({*schemes}) == len(schemes)
    assert {"576|576", "576|24x24", "24x24|576", "9x64|9x64", "576|9x64"} <= {*schemes}
    orders = {each.schemes[0].order for each in on_query}
    assert {2, 3, 4, 7, 16} <= orders  # 576 has eight primes
    assert {each.targets for each in layouts} == {*candidates.PLACEMENTS}


def test_each_d_that_can_be_zeroed_is_there_once(smollm):
    layouts, _ = smollm
    one = next(x for x in layouts if x.label == "576|24x24" and x.targets == ("q_proj",))
    found = [*candidates.candidates([one], ["orthogonal"])]
    assert [each.zero for each in found] == ["longest", -1]  # the first d is the longest
    assert [each.zeroed for each in found] == [576, 24]
    assert [each.is_longest_zeroed for each in found] == [True, False]
    assert len([*candidates.candidates([one])]) == 6


def test_no_scheme_is_above_a_budget_and_none_below_it_is_left_out(smollm):
    layouts, _ = smollm
    for limit in (Budget(30_000, False), Budget(120_000, True)):
        within = budget.within(layouts, limit)
        assert 0 < len(within) < len(layouts)
        spent = {id(each): limit.spent(each) for each in layouts}
        assert {id(each) for each in within} == {i for i, n in spent.items() if n <= limit.limit}


def test_bytes_are_those_of_the_exported_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(parts.SMALL))
    config, found = shapes.sizes(str(tmp_path))
    layouts = candidates.layouts(config, found)
    by_heads = next(each for each in layouts if "heads" in each.label)
    sizes = set()
    for number, layout in enumerate([by_heads, layouts[-1]]):
        given, targets = settings(layout)
        _, adapter, *abstract = shapes.parts(str(tmp_path), "tera", given, targets)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
        variables = dict(zip(("params", "frozen", "d"), zeros, strict=True))
        path = tmp_path / str(number)
        save_adapter(path, adapter, variables, "small", check_frozen=False)
        assert (path / "adapter.safetensors").stat().st_size == budget.file_bytes(layout)
        sizes.add(budget.file_bytes(layout))
    assert len(sizes) == 2


def test_the_order_is_that_of_the_rules(smollm):
    layouts, _ = smollm
    ranked = rules.ranked(candidates.candidates(layouts))

    def place(label, targets, zero="longest", init="orthogonal"):
        return next(
            i
            for i, each in enumerate(ranked)
            if (each.layout.label, each.layout.targets) == (label, tuple(targets.split("+")))
            and (each.zero, each.init) == (zero, init)
        )

    label = "576|24x24 576|12x16"
    best = place(label, "v_proj+o_proj")
    assert best < place(label, "q_proj+v_proj")
    assert best < place(label, "v_proj+o_proj", init="identity")
    assert place(label, "q_proj+v_proj") < place(label, "v_proj+o_proj", init="normal")
    assert place(label, "q_proj+v_proj") < place(label, "v_proj+o_proj", zero=-1)
    assert best < place("9x64|9x64 9x64|3x64", "v_proj+o_proj")  # a shorter d is zeroed
    chosen = [ranked[i] for i in rules.select(ranked, 9)]
    assert {each.layout.targets for each in chosen} == {*candidates.PLACEMENTS}
    assert {each.init for each in chosen} == {"orthogonal"}
    assert ranked[0] is chosen[0]
