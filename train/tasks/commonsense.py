"""The commonsense record format: prompts, and the answer in a generated text.

The two published templates are those of LLM-Adapters (arXiv:2304.01933), here its training
template, and of HiRA (ICLR 2025), whose setting the TeRA paper follows.
"""

import re

_INDENT = " " * 16
_REQUEST = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.  "
)

PROMPTS = {
    "hira": _REQUEST + "\n\n### Instruction:\n{instruction}\n\n### Response:\n",
    "llm-adapters": (
        f"{_REQUEST}\n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n{_INDENT}\n"
        f"{_INDENT}### Response:\n{_INDENT}"
    ),
}
"""Templates by style; the response follows at once."""

_ANSWERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"true|false",
        r"solution1|solution2",
        r"answer1|answer2|answer3|answer4|answer5",
        r"ending1|ending2|ending3|ending4",
        r"option1|option2",
    )
)


def prompt(instruction: str, style: str) -> str:
    """The text that the model completes."""
    return PROMPTS[style].format(instruction=instruction)


def answer_in(text: str, gold: str) -> str | None:
    """The first answer in ``text`` of the kind that ``gold`` is, or None. Case counts.

    Raises:
        ValueError: when ``gold`` is no answer of the format.

    Example:
        >>> answer_in("the correct answer is solution2, not solution1", gold="solution1")
        'solution2'
    """
    for pattern in _ANSWERS:
        if pattern.fullmatch(gold):
            found = pattern.search(text)
            return found[0] if found else None
    raise ValueError(
        f"answer {gold!r} is none of the commonsense format: true, false, solution1-2, answer1-5, "
        "ending1-4, option1-2"
    )
