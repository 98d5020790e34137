"""ConvAI2: dialogues in ParlAI's text format, and the prompt of HiRA's setting.

Sources: the format, ParlAI's ``FbDialogTeacher``; the dialogues, Dinan et al., "The Second
Conversational Intelligence Challenge" (arXiv:1902.00098); the prompt, HiRA (ICLR 2025), whose
context string is not published and follows another repository of its author.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_LINE = re.compile(r"(\d+) (.*)")
_OWN = "your persona: "
_OTHER = "partner's persona: "
_SILENCE = "__SILENCE__"


def dialogues(lines: Iterable[str]) -> list[list[dict[str, Any]]]:
    r"""The turns of each dialogue.

    A line is a number, which starts again at 1 with each dialogue, and then either a sentence of a
    persona or tab-separated fields. These are what the partner says, the answer, and two that are
    not read (reward and candidates).

    Returns:
        for each dialogue its turns: ``persona`` (sentences), ``history`` (utterances of both
        speakers in turn, the last being the partner's) and ``output`` (the answer).

    Raises:
        ValueError: naming the line, when it is none of these.

    Example:
        >>> lines = ["1 your persona: i ski.", "2 hi !\thello .", "3 hobbies ?\ti ski ."]
        >>> dialogues(lines)[0][1]
        {'persona': ['i ski.'], 'history': ['hi !', 'hello .', 'hobbies ?'], 'output': 'i ski .'}
    """
    result: list[list[dict[str, Any]]] = []
    persona: list[str] = []
    history: list[str] = []
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line.rstrip("\n"))
        if found is None:
            raise ValueError(f"line {number} does not begin with the number of a turn: {line!r}")
        if int(found[1]) == 1:
            result.append([])
            persona, history = [], []
        if not result:
            raise ValueError(f"line {number} is turn {found[1]}, but no dialogue has begun")
        text = found[2]
        if text.startswith(_OWN):
            persona.append(text.removeprefix(_OWN))
        elif not text.startswith(_OTHER):
            said, _, rest = text.partition("\t")
            answer = rest.partition("\t")[0]
            if not answer:
                raise ValueError(f"line {number} holds neither a persona nor an answer: {line!r}")
            history += [said] if said != _SILENCE else []
            turn = {"persona": [*persona], "history": [*history], "output": answer}
            result[-1].append(turn)
            history.append(answer)
    return result


def prompt(persona: Sequence[str], history: Sequence[str], utterances: int) -> str:
    """``CONTEXT: persona: ... context:  Q: ... R: ... Q: ... TARGET:``.

    Args:
        persona: sentences about the speaker.
        history: utterances in turn, the last by the partner (Q), the one before by the speaker (R).
        utterances: how many of the last are kept.
    """
    kept = history[len(history) - min(len(history), utterances) :]
    roles = ["R: " if (len(kept) - i) % 2 == 0 else "Q: " for i in range(len(kept))]
    said = " ".join(role + text for role, text in zip(roles, kept, strict=True))
    return f"CONTEXT: persona: {' '.join(persona)} context:  {said} TARGET:"
