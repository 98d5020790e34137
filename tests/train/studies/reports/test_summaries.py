"""What runs come to: the chosen rate, means, tests of significance, the front."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.train.studies.test_results import result
from train.studies.reports import pareto, summaries
from train.studies.reports.summaries import Spread, Summary, chosen, compare, summarize
from train.studies.results import Failure

RUNS = [
    result(rate=1e-3, validation=2.0, test=2.5),
    result(rate=3e-3, validation=1.0, test=9.0),
    result(rate=1e-2, validation=3.0, test=0.5),
    result(rate=3e-3, seed=1, validation=5.0, test=7.0),
]


def test_the_rate_is_chosen_by_the_validation_loss_of_the_first_seed():
    assert [run.test for run in chosen(RUNS)] == [9.0, 7.0]
    assert chosen(RUNS[3:]) == []


def test_a_summary_has_mean_and_spread_of_the_seeds_at_that_rate():
    (found,) = summarize(RUNS, 4)
    assert found.learning_rate == 3e-3
    assert found.test == (np.mean([9.0, 7.0]), np.std([9.0, 7.0], ddof=1))
    assert found.validation.mean == 3.0
    assert not found.at_edge
    assert summarize(RUNS[:2], 4)[0].at_edge
    assert summarize(RUNS, 4, seeds=1)[0].test == (9.0, None)


def test_short_runs_choose_nothing():
    short = result(rate=1e-5, steps=2, validation=0.0)
    assert summarize([*RUNS, short], 4) == summarize(RUNS, 4)
    assert summarize([short], 4) == []


def test_a_loss_that_is_not_finite_is_not_averaged_away():
    (found,) = summarize([*RUNS, result(rate=3e-3, seed=2, test=math.inf, note="x")], 4)
    assert str(found.test) == "not finite"
    assert summarize([result(validation=math.inf)], 4) == []


def test_what_is_not_run_to_its_end_is_named():
    runs = [*RUNS, result("tera", steps=2)]
    left = summaries.unfinished(runs, [Failure("hira", "T", "why")], summarize(runs, 4), 3)
    assert [each[0::2] for each in left] == [
        ("hira", "why"),
        ("tera", "not run to its end"),
        ("lora", "1 of 3 seeds not run yet"),
    ]


def summary(variant, task, tests, trained=10):
    mean, deviation = float(np.mean(tests)), float(np.std(tests, ddof=1))
    rows = dict(enumerate(tests))
    spread = Spread(mean, deviation)
    return Summary(variant, task, "q", trained, 1e-3, False, spread, spread, rows, 0.1, 0, ("cpu",))


def test_pairs_are_of_one_task_and_seed():
    rng = np.random.default_rng(0)
    losses = {(v, t): list(rng.normal(1.0, 0.1, 4)) for v in ("lora", "tera") for t in ("T", "U")}
    found = [summary(*key, tests) for key, tests in losses.items()]
    (one,) = compare(found, "lora")
    ours = np.array(losses["tera", "T"] + losses["tera", "U"])
    theirs = np.array(losses["lora", "T"] + losses["lora", "U"])
    assert one.pairs == 8
    assert one.two_sided == pytest.approx(stats.wilcoxon(ours, theirs).pvalue)
    assert one.lower == pytest.approx(stats.wilcoxon(ours, theirs, alternative="less").pvalue)
    assert one.difference == pytest.approx(np.mean(ours - theirs))
    assert one.least == 2 / 2**8
    (without,) = compare([each for each in found if each[:2] != ("tera", "U")], "lora")
    assert without.pairs == 4
    assert without.two_sided != one.two_sided


def test_three_seeds_of_one_task_cannot_be_significant():
    found = [summary("lora", "T", [1.0, 1.1, 1.2]), summary("tera", "T", [0.1, 0.2, 0.4])]
    (one,) = compare(found, "lora")
    assert (one.pairs, one.two_sided, one.least) == (3, 0.25, 0.25)
    (equal,) = compare([found[0], summary("tera", "T", [1.0, 1.1, 1.2])], "lora")
    assert (equal.pairs, equal.two_sided) == (3, None)
    assert compare([found[1]], "lora")[0].pairs == 0


def test_the_front_has_what_no_other_beats_in_both():
    points = {"a": (1, 3.0), "b": (2, 3.5), "c": (2, 2.0), "d": (9, 1.0), "e": (9, 1.5)}
    found = [
        summary(name, "T", [loss - 0.1, loss + 0.1], trained)
        for name, (trained, loss) in points.items()
    ]
    assert [each.variant for each in pareto.front(found)] == ["a", "c", "d"]
    base = summary("base", "T", [0.0, 0.0], 0)
    assert [each.variant for each in pareto.front([*found, base])] == ["a", "c", "d"]
    twin = summary("f", "T", [0.9, 1.1], 9)
    assert [each.variant for each in pareto.front([*found, twin])] == ["a", "c", "d", "f"]


def test_the_picture_is_the_same_each_time(tmp_path):
    found = [summary("a", "T", [1.0, 1.1], 3), summary("b", "U", [2.0, 2.1], 5)]
    pareto.draw(found, tmp_path)
    first = [(tmp_path / name).read_bytes() for name in ("pareto.png", "pareto.svg")]
    pareto.draw(found, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("pareto.png", "pareto.svg")] == first
    assert first[0].startswith(b"\x89PNG")
    pareto.draw(found[:1], tmp_path)
    assert (tmp_path / "pareto.svg").read_bytes() != first[1]
