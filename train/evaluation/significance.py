"""A test of significance between the methods of evaluated runs."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from .summaries import Summary, metrics_of

FEWEST_PAIRS = 6
"""With fewer the test says nothing."""


class Comparison(NamedTuple):
    """Wilcoxon's signed-rank test of two methods on the scores that both have.

    The p values are two-sided, and one-sided that ``first`` is better. They are None where the
    pairs are too few for a test, or all equal.
    """

    first: str
    second: str
    pairs: int
    two_sided: float | None
    better: float | None


def signed_rank(differences: Sequence[float]) -> tuple[float, float]:
    """The p values of Wilcoxon's signed-rank test, of any number of pairs.

    They are exact for few pairs without ties, and by the normal approximation otherwise.

    Args:
        differences: of pairs, of which one at least is not zero.

    Returns:
        two-sided, and one-sided that they are above zero.
    """
    return _scipy(differences, "auto")


def normal_signed_rank(differences: Sequence[float]) -> tuple[float, float]:
    """As :func:`signed_rank`, always by the normal approximation, without a correction."""
    return _scipy(differences, "asymptotic")


def exact_signed_rank(differences: Sequence[float]) -> tuple[float, float]:
    """As :func:`signed_rank`, exact with ties too: every way of signs is as likely.

    Differences of zero are left out, and equal ones share the mean of their ranks.
    """
    nonzero = np.array([each for each in differences if each])
    ranks = np.rint(2 * stats.rankdata(abs(nonzero))).astype(int)  # twice: a mean of ranks is whole
    chances = np.zeros(ranks.sum() + 1)
    chances[0] = 1
    for rank in ranks:
        chances[rank:] = (chances[rank:] + chances[:-rank]) / 2
        chances[:rank] /= 2
    positive = ranks[nonzero > 0].sum()
    better, worse = chances[positive:].sum(), chances[: positive + 1].sum()
    return min(1.0, 2 * float(min(better, worse))), float(better)


def _scipy(differences: Sequence[float], method: str) -> tuple[float, float]:
    two_sided = float(stats.wilcoxon(differences, method=method).pvalue)
    better = float(stats.wilcoxon(differences, alternative="greater", method=method).pvalue)
    return two_sided, better


def compare(
    summaries: Sequence[Summary],
    baseline: str | None = None,
    test: Callable[[Sequence[float]], tuple[float, float]] = signed_rank,
) -> list[Comparison]:
    """Wilcoxon's signed-rank test between methods, as in the paper's Appendix H.

    A pair are the scores of two methods on the same model, seed, task and metric of the tables;
    averages are not paired. A method with several trained counts on one task stands for as
    many methods, which are named by the count.

    Args:
        summaries: of runs.
        baseline: compare every other method with this one only, which comes second.
        test: that gives the p values of differences.

    Raises:
        ValueError: when there is no such baseline.
    """
    scores = _scores(summaries)
    if baseline is None:
        couples = list(itertools.combinations(scores, 2))
    elif baseline in scores:
        couples = [(name, baseline) for name in scores if name != baseline]
    else:
        raise ValueError(f"baseline {baseline!r}; choose one of {sorted(scores)}")
    return [_comparison(first, second, scores, test) for first, second in couples]


def _scores(summaries: Sequence[Summary]) -> dict[str, dict[tuple[Any, ...], float]]:
    """The scores of each method by model, seed, task and metric."""
    counts: dict[tuple[str, str, str], set[int]] = {}
    for one in summaries:
        counts.setdefault((one.method, one.model, one.task), set()).add(one.trained)
    several = {method for (method, _, _), trained in counts.items() if len(trained) > 1}
    scores: dict[str, dict[tuple[Any, ...], float]] = {}
    for one in summaries:
        name = f"{one.method} ({one.trained} trained)" if one.method in several else one.method
        of_name = scores.setdefault(name, {})
        for metric in metrics_of(one.task):
            of_name[one.model, one.seed, one.task, metric] = one.metrics[metric]
    return scores


def _comparison(
    first: str,
    second: str,
    scores: dict[str, dict[tuple[Any, ...], float]],
    test: Callable[[Sequence[float]], tuple[float, float]],
) -> Comparison:
    ours, theirs = scores[first], scores[second]
    # Rounded, so that ties remain ties: 0.3 - 0.2 and 0.2 - 0.1 differ in the last bit.
    differences = [round(ours[key] - theirs[key], 12) for key in ours if key in theirs]
    pairs = len(differences)
    if pairs < FEWEST_PAIRS or not any(differences):
        return Comparison(first, second, pairs, None, None)
    return Comparison(first, second, pairs, *test(differences))
