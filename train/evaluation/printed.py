"""The scores that the TeRA paper prints, its p values, and what follows from the scores.

Typed from Tables 2, 3 and 4 and Appendix H of "TeRA: Vector-based Random Tensor Network for
High-Rank Adaptation of Large Language Models". Nothing here comes from a run of this library.
"""

from collections.abc import Iterator
from typing import NamedTuple

from .significance import exact_signed_rank, normal_signed_rank
from .summaries import LAYOUTS

MODELS = ("Llama-2-7B", "Llama-3-8B")
COLUMNS = tuple(column.heading for layout in LAYOUTS for column in layout.columns)
"""The eight tasks of Table 2, the six metrics of Table 3, the two tasks of Table 4."""

# A line is a model: Table 2, Table 3, and Table 4 for the methods that it has.
_SCORES = {
    "TeRA": """
65.78 81.23 78.92 69.45 84.05 81.00 85.94 82.64  2.62 85.28 85.40 85.19 14.26 13.39  24.41 49.70
70.70 88.08 81.58 80.89 92.00 88.00 94.92 86.27  3.38 85.03 84.53 85.57 15.32 14.59  30.71 73.10""",
    "HiRA (r=1)": """
65.35 77.97 72.42 62.03 81.48 64.80 79.90 70.01  2.39 84.84 84.93 84.78 13.35 12.60  18.90 27.40
68.04 85.75 75.54 76.96 90.32 77.00 89.04 77.43  3.36 84.81 84.40 85.26 15.12 14.19  27.95 57.70""",
    "VeRA": """
64.59 78.84 76.56 65.44 83.63 73.20 82.71 77.90  2.27 85.01 85.04 85.02 12.64 12.55  18.50 26.60
67.95 85.64 76.51 77.22 91.29 81.00 91.96 82.24  3.12 84.61 84.27 85.01 14.56 13.72  25.59 55.70""",
    "LoRETTA": """
67.52 79.33 76.31 65.70 84.34 76.00 86.32 80.98  2.22 84.99 84.97 85.03 12.37 11.85  12.60 47.50
65.17 89.01 79.53 79.86 91.54 84.40 94.40 84.69  2.97 84.77 84.26 85.31 13.78 13.15  18.50 56.50""",
    "LoRA": """
67.65 79.22 78.20 69.20 83.88 78.60 81.05 80.98  2.59 85.25 85.31 85.21 14.14 13.28
71.99 85.91 79.58 76.19 88.55 82.60 92.54 85.63  3.24 85.02 84.49 85.60 15.16 14.14""",
    "HiRA (r=32)": """
69.39 83.24 78.86 71.33 86.57 81.40 87.23 81.69  2.67 85.26 85.37 85.17 13.94 13.19  18.90 46.50
73.09 88.85 81.06 80.38 92.68 86.20 94.37 85.87  3.22 84.58 84.35 84.87 14.90 13.72  29.92 72.80""",
    "MoRA (r=32)": """
65.17 81.12 77.74 67.75 84.47 75.80 84.12 79.64  1.91 84.85 84.91 84.83 11.80 11.59
69.05 88.25 80.14 80.89 92.72 84.20 94.09 85.00  2.35 84.20 83.79 84.67 11.96 11.51""",
    "QuanTA": """
66.88 81.28 78.45 70.82 85.40 79.40 75.86 82.16  2.65 85.14 85.32 85.00 14.19 13.32
70.03 88.41 81.67 81.05 92.21 85.60 94.68 88.47  3.04 84.55 84.19 84.97 13.90 13.08""",
}
P_VALUES: dict[str, str] = {
    "HiRA (r=1)": "3.97e-07",
    "VeRA": "3.97e-07",
    "LoRETTA": "2.20e-05",
    "LoRA": "2.37e-04",
    "HiRA (r=32)": "not significant",
    "MoRA (r=32)": "not tested",
    "QuanTA": "not tested",
}
"""Appendix H, with its digits: TeRA against each method; the one-sided test gives them."""
_BOLD = {
    "Llama-2-7B": ("SIQA", "WinoG", "BERT F1", "BERT-R", "Meteor", "R-L", "AQuA", "SVAMP"),
    "Llama-3-8B": (
        *("SIQA", "ARC-c", "OBQA", "HellaS", "WinoG", "BLEU", "BERT F1", "BERT-R", "Meteor"),
        *("R-L", "AQuA", "SVAMP"),
    ),
}
"""Columns in which TeRA is printed as the best of the adapters."""
_LEVEL = 0.05


def scores(method: str) -> dict[tuple[str, str], float]:
    """The printed scores of a method by model and column, in per cent."""
    lines = [map(float, line.split()) for line in _SCORES[method].split("\n")[1:]]
    return {
        (model, column): score
        for model, line in zip(MODELS, lines, strict=True)
        for column, score in zip(COLUMNS, line, strict=False)
    }


class PrintedTest(NamedTuple):
    """Wilcoxon's signed-rank test of TeRA against a method, on the printed scores.

    Attributes:
        method: that TeRA is compared with.
        pairs: scores that both have.
        paper: the p value of Appendix H, as printed.
        two_sided: by the normal approximation.
        better: likewise, one-sided that TeRA is better.
        unrounded: likewise, of fractions subtracted without rounding, which splits ties.
        exact_two_sided: by the exact distribution.
        exact_better: likewise, one-sided.
    """

    method: str
    pairs: int
    paper: str
    two_sided: float
    better: float
    unrounded: float
    exact_two_sided: float
    exact_better: float

    @property
    def verdict(self) -> str:
        """Whether the printed p value comes out of the printed scores."""
        if self.paper == "not tested":
            return "no claim"
        if self.paper == "not significant":
            return "holds" if self.two_sided > _LEVEL else "does not hold"
        if f"{self.better:.2e}" == self.paper:
            return "holds"
        if f"{self.unrounded:.2e}" == self.paper:
            return f"holds where rounding splits ties: {self.unrounded:.2e}"
        return "does not hold"


def tests() -> list[PrintedTest]:
    """Appendix H from the printed scores, in the order of :data:`P_VALUES`."""
    return [_test(method, paper) for method, paper in P_VALUES.items()]


def _test(method: str, paper: str) -> PrintedTest:
    ours, theirs = scores("TeRA"), scores(method)
    differences = [round(ours[key] - score, 6) for key, score in theirs.items()]
    fractions = [ours[key] / 100 - score / 100 for key, score in theirs.items()]
    return PrintedTest(
        method,
        len(differences),
        paper,
        *normal_signed_rank(differences),
        normal_signed_rank(fractions)[1],
        *exact_signed_rank(differences),
    )


def wrong_bold() -> Iterator[tuple[str, str, float, str, float]]:
    """Model, column and TeRA's score where it is bold and another's is higher, and that one's."""
    ours = scores("TeRA")
    for model, columns in _BOLD.items():
        for column in columns:
            others = {name: scores(name).get((model, column), 0.0) for name in P_VALUES}
            best = max(others, key=others.__getitem__)
            if others[best] > ours[model, column]:
                yield model, column, ours[model, column], best, others[best]


def gain(model: str, column: str) -> tuple[str, float]:
    """The strongest other method in a column, and TeRA's score less that one's."""
    others = {name: scores(name) for name in P_VALUES}
    known = {name: each[model, column] for name, each in others.items() if (model, column) in each}
    best = max(known, key=known.__getitem__)
    return best, scores("TeRA")[model, column] - known[best]
