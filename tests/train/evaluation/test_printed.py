"""The paper's Appendix H from the scores of its tables."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tests.train.evaluation.summary_files import PAPER, write_paper
from train import report
from train.evaluation import printed, significance


def test_the_scores_are_those_of_the_tables():
    for name, method in (("tera", "TeRA"), ("hira", "HiRA (r=1)")):
        for model in printed.MODELS:
            typed = map(float, PAPER[name, model.lower()].split())
            own = {key[1]: each for key, each in printed.scores(method).items() if key[0] == model}
            assert own == dict(zip(printed.COLUMNS, typed, strict=True))
    assert [len(printed.scores(method)) for method in printed.P_VALUES] == [
        *[32] * 3,
        28,
        32,
        28,
        28,
    ]


def test_appendix_h_comes_out_of_the_tables_but_for_lora():
    found = {one.method: one for one in printed.tests()}
    one_sided = {name: float(f"{one.better:.2e}") for name, one in found.items()}
    assert one_sided["HiRA (r=1)"] == one_sided["VeRA"] == 3.97e-7
    assert (one_sided["LoRETTA"], f"{found['LoRETTA'].unrounded:.2e}") == (2.19e-5, "2.20e-05")
    assert (one_sided["LoRA"], one_sided["QuanTA"]) == (1.23e-4, 0.0438)
    assert f"{found['HiRA (r=32)'].two_sided:.3f}" == "0.395"
    assert {name: one.verdict for name, one in found.items()} == {
        "HiRA (r=1)": "holds",
        "VeRA": "holds",
        "LoRETTA": "holds where rounding splits ties: 2.20e-05",
        "LoRA": "does not hold",
        "HiRA (r=32)": "holds",
        "MoRA (r=32)": "no claim",
        "QuanTA": "no claim",
    }
    # Neither side, correction nor rounding gives the printed p value of LoRA.
    ours, theirs = printed.scores("TeRA"), printed.scores("LoRA")
    others = set()
    for places, side, correction in itertools.product(
        (6, 20), ("greater", "two-sided"), (False, True)
    ):
        differences = [round(ours[key] / 100 - theirs[key] / 100, places) for key in theirs]
        p = stats.wilcoxon(
            differences, alternative=side, correction=correction, method="asymptotic"
        ).pvalue
        others.add(f"{p:.2e}")
    assert len(others) > 4
    assert "2.37e-04" not in others


def test_the_exact_test_counts_every_way_of_signs():
    draws = np.random.default_rng(0)
    for size in (6, 9, 11):
        distinct = draws.permutation(np.arange(1.0, size + 1)) * draws.choice((-1, 1), size)
        distinct = distinct.tolist()
        exact = significance.exact_signed_rank(distinct)
        for side, p in zip(("two-sided", "greater"), exact, strict=True):
            expected = stats.wilcoxon(distinct, alternative=side, method="exact").pvalue
            assert p == pytest.approx(expected, rel=1e-12)
        tied = [float(each) for each in draws.integers(-3, 4, size)]
        nonzero = np.array([each for each in tied if each])
        ranks = stats.rankdata(abs(nonzero))
        signs = np.array([*itertools.product((0, 1), repeat=len(ranks))])
        sums = signs @ ranks
        reached = ranks[nonzero > 0].sum()
        two_sided, better = significance.exact_signed_rank(tied)
        assert better == pytest.approx(np.mean(sums >= reached), rel=1e-12)
        both = 2 * min(np.mean(sums >= reached), np.mean(sums <= reached))
        assert two_sided == pytest.approx(min(1, both), rel=1e-12)
        assert better != pytest.approx(significance.normal_signed_rank(tied)[1], rel=1e-6)


def test_the_command_prints_both_tests_and_takes_no_runs_beside_the_papers(tmp_path, capsys):
    report.main(["--paper"])
    printed_text = capsys.readouterr().out
    assert "| TeRA | LoRA | 28 | 0.000246 | 0.000123 | 2.37e-04 | does not hold |" in printed_text
    assert "| Llama-3-8B | WinoG | 86.27 | 88.47 | QuanTA |" in printed_text
    assert "TeRA is 2.2 above LoRETTA; the text says 1.7" in printed_text
    report.main(["--paper", "--exact"])
    line = "| TeRA | VeRA | 32 | 7.94e-07 | 3.97e-07 | 4.66e-10 | 2.33e-10 | 3.97e-07 | holds |"
    assert line in capsys.readouterr().out
    runs = [str(run) for run in write_paper(tmp_path)]
    report.main([*runs, "--exact"])
    assert "| tera | hira | 32 | 7.95e-07 | 3.97e-07 | 4.66e-10 | 2.33e-10 |" in (
        capsys.readouterr().out
    )
    for argv, reason in (
        (["--paper", *runs], "--paper reports no runs"),
        ([], "name the directories of runs, or give --paper"),
    ):
        with pytest.raises(SystemExit):
            report.main(argv)
        assert reason in capsys.readouterr().err
