import pytest
from scipy.stats import wilcoxon

from tests.train.evaluation.summary_files import write
from train.evaluation import significance, summaries, tables


def write_seeds(tmp_path, method, scores):
    return [
        write(tmp_path / f"{method}-{seed}", "AQuA", score, method=method, seed=seed)
        for seed, score in enumerate(scores)
    ]


def test_wilcoxon_pairs_what_both_methods_have(tmp_path):
    ours = [0.51, 0.62, 0.48, 0.7, 0.55, 0.66, 0.58, 0.6, 0.9]
    theirs = [0.5, 0.6, 0.51, 0.66, 0.5, 0.6, 0.51, 0.52]
    runs = [*write_seeds(tmp_path, "tera", ours), *write_seeds(tmp_path, "vera", theirs)]
    write(runs[0], "SVAMP", 0.5, method="tera")
    (found,) = significance.compare(summaries.read(runs))
    # In per cent 1, 2, -3, 4, ..., 8: the ranks are the differences, of which those below 0 sum to
    # 3. Of the 2^8 ways of signs, {}, {1}, {2}, {3} and {1, 2} sum to 3 or less.
    assert found == ("tera", "vera", 8, pytest.approx(10 / 256), pytest.approx(5 / 256))
    # Seen from the other side, and through scipy.
    (other,) = significance.compare(summaries.read(runs), baseline="tera")
    expected = wilcoxon([-1, -2, 3, -4, -5, -6, -7, -8], alternative="greater").pvalue
    assert other == ("vera", "tera", 8, pytest.approx(10 / 256), pytest.approx(expected))
    assert expected > 0.98


def test_equal_differences_are_ties(tmp_path):
    ours = [0.3, 0.2, 0.7, 0.8, 0.1, 0.6]
    theirs = [0.2, 0.1, 0.6, 0.7, 0.0, 0.7]
    assert len({a - b for a, b in zip(ours, theirs, strict=True)}) > 2
    runs = [*write_seeds(tmp_path, "tera", ours), *write_seeds(tmp_path, "vera", theirs)]
    (found,) = significance.compare(summaries.read(runs))
    expected = wilcoxon([1, 1, 1, 1, 1, -1], alternative="greater").pvalue
    assert found.better == pytest.approx(expected)


def test_too_few_pairs_and_equal_scores_have_no_p_value(tmp_path):
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    runs = [*write_seeds(tmp_path, "tera", scores), *write_seeds(tmp_path, "vera", scores)]
    runs += write_seeds(tmp_path, "lora", scores[:5])
    lines = tables.markdown(summaries.read(runs)).splitlines()
    assert lines[-3:] == [
        "| tera | vera | 6 | equal | equal |",
        "| tera | lora | 5 | too few pairs | too few pairs |",
        "| vera | lora | 5 | too few pairs | too few pairs |",
    ]
    lines = tables.markdown(summaries.read(runs), baseline="vera").splitlines()
    assert [line.split(" | ")[:2] for line in lines[-2:]] == [
        ["| tera", "vera"],
        ["| lora", "vera"],
    ]
