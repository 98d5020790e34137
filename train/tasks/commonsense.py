"""The commonsense record format: prompts, and the answer in a generated text.

The two published templates are those of LLM-Adapters (arXiv:2304.01933), whose evaluation prompts
are not quite those of its training, and of HiRA (ICLR 2025), whose setting the TeRA paper follows.
Both come from Stanford Alpaca, as do those for an instruction with an ``input``. HiRA's for an
input is not published; here it is Stanford Alpaca's, with the line end of HiRA's other template.
"""

import re

_INDENT = " " * 16
_REQUEST = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request. "
)
_PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
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

TRAINING_WITH_INPUT = {
    "hira": (
        f"{_PAIRED}\n\n### Instruction:\n{{instruction}}\n\n### Input:\n{{input}}\n\n"
        "### Response:\n"
    ),
    "llm-adapters": (
        f"{_PAIRED} \n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n{_INDENT}\n"
        f"{_INDENT}### Input:\n{_INDENT}{{input}}\n{_INDENT}\n{_INDENT}### Response:\n{_INDENT}"
    ),
}
"""As :data:`TRAINING`, for records with an input."""

INFERENCE_WITH_INPUT = {
    "hira": TRAINING_WITH_INPUT["hira"],
    "llm-adapters": (
        f"{_PAIRED}\n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n\n"
        f"{_INDENT}### Input:\n{_INDENT}{{input}}\n\n{_INDENT}### Response:\n{_INDENT}"
    ),
}
"""As :data:`INFERENCE`, for records with an input."""

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


def prompt(instruction: str, given: str | None, style: str, inference: bool) -> str:
    """The text that the model completes.

    Args:
        instruction: of the record.
        given: its input; None and white space are none.
        style: of the templates.
        inference: whether its response is generated, rather than trained on.
    """
    if given is not None and given.strip():
        templates = INFERENCE_WITH_INPUT if inference else TRAINING_WITH_INPUT
        return templates[style].format(instruction=instruction, input=given)
    templates = INFERENCE if inference else TRAINING
    return templates[style].format(instruction=instruction)


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
