"""The commonsense record format: prompts, and the answer in a generated text.

The two published templates are those of LLM-Adapters (arXiv:2304.01933), whose evaluation prompts
are not quite those of its training, and of HiRA (ICLR 2025), whose setting the TeRA paper follows.
"""

import re

_INDENT = " " * 16
_REQUEST = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request. "
)

TRAINING = {
    "hira": _REQUEST + " \n\n### Instruction:\n{instruction}\n\n### Response:\n",
    "llm-adapters": (
        f"{_REQUEST} \n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n{_INDENT}\n"
        f"{_INDENT}### Response:\n{_INDENT}"
    ),
}
"""Templates by style; the response follows at once."""

INFERENCE = {
    "hira": TRAINING["hira"],
    "llm-adapters": (
        f"{_REQUEST}\n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n\n"
        f"{_INDENT}### Response:\n{_INDENT}"
    ),
}
"""Templates by style of the prompts whose responses are generated."""

LABELS = {
    "boolq": ("true", "false"),
    "piqa": ("solution1", "solution2"),
    "social_i_qa": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "ARC-Challenge": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "ARC-Easy": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "openbookqa": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "hellaswag": ("ending1", "ending2", "ending3", "ending4"),
    "winogrande": ("option1", "option2"),
}
"""The answers of each task."""

_KINDS = [re.compile("|".join(labels)) for labels in dict.fromkeys(LABELS.values())]


def answer_in(text: str, gold: str) -> str | None:
    """The first answer in ``text`` of the kind that ``gold`` is, or None. Case counts.

    Raises:
        ValueError: when ``gold`` is no answer of the format.

    Example:
        >>> answer_in("the correct answer is solution2, not solution1", gold="solution1")
        'solution2'
    """
    for kind in _KINDS:
        if kind.fullmatch(gold):
            found = kind.search(text)
            return found[0] if found else None
    raise ValueError(
        f"answer {gold!r} is none of the commonsense format: true, false, solution1-2, answer1-5, "
        "ending1-4, option1-2"
    )
