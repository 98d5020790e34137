"""Writes the quickstart data set: 496 everyday commonsense questions in the LLM-Adapters format.

The facts in facts/ were written by hand for this project; nothing is taken from another data set.
Each fact is used in exactly one split, so the test set asks about things the training set never
states. Running the script writes the same bytes every time:

    python examples/quickstart/make_records.py
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Records per answer form. What the two held-out splits do not take is the training set.
HELD_OUT = {"true/false": 14, "answer": 14, "solution": 6, "ending": 8, "option": 6}
TRAIN = {"true/false": 118, "answer": 126, "solution": 60, "ending": 52, "option": 44}
SPLITS = ("train", "validation", "test")
FACTS = Path(__file__).parent / "facts"

# A table of facts, "subject: value". A "?" line asks for the value (or, where it gives {v}, for
# the subject); a "!" line makes a yes-or-no question. The other rows supply the wrong choices, so
# no value may be true of another row's subject.
TABLES = (FACTS / "tables.txt").read_text(encoding="utf-8")

# The first of the two is more so than the second.
COMPARISONS = (FACTS / "comparisons.txt").read_text(encoding="utf-8")

# The right choice comes first.
CHOICES = (FACTS / "choices.txt").read_text(encoding="utf-8")

# Two goals and their solutions. Each solution is wrong for the other goal.
SOLUTIONS = (FACTS / "solutions.txt").read_text(encoding="utf-8")

# Four scenes and how each goes on. Each ending is wrong for the other three scenes.
ENDINGS = (FACTS / "endings.txt").read_text(encoding="utf-8")

# Twins: the first word in brackets makes the first name fill the blank, the second the second.
TWINS = (FACTS / "twins.txt").read_text(encoding="utf-8")


class Draft(NamedTuple):
    """A question before its choices are put in order; for true/false, two whole questions."""

    fact: str
    question: str
    right: str
    wrong: tuple[str, ...]


class Made(NamedTuple):
    """A record and the fact that it tests."""

    fact: str
    record: dict[str, str]


def parse_tables() -> list[tuple[str, list[str], list[str], dict[str, str]]]:
    """The tables as (name, "?" lines, "!" lines, {subject: value})."""
    tables = []
    for block in TABLES.strip().split("\n\n"):
        lines: dict[str, list[str]] = {"#": [], "?": [], "!": [], "": []}
        for line in block.split("\n"):
            mark = line[0] if line[0] in lines else ""
            lines[mark].append(line.removeprefix(mark).strip())
        rows = [row.split(": ") for line in lines[""] for row in line.split("; ")]
        tables.append((lines["#"][0], lines["?"], lines["!"], dict(rows)))
    return tables


def draft_tables(n_checks: int, rng: random.Random) -> tuple[list[list[Draft]], list[list[Draft]]]:
    """One draft per fact: `n_checks` yes-or-no questions, the rest with four or five choices."""
    facts = [(*table, subject) for table in parse_tables() for subject in table[3]]
    rng.shuffle(facts)
    checks, questions = [], []
    for i, (name, asks, tests, rows, s) in enumerate(facts):
        v, fact = rows[s], f"{name}: {s}"
        others = sorted({value for value in rows.values() if value != v})
        rng.shuffle(others)
        if i < n_checks:
            test = rng.choice(tests)
            true, false = test.format(s=s, v=v), test.format(s=s, v=others[0])
            checks.append([Draft(fact, "", true, (false,))])
            continue
        ask = rng.choice(asks)
        if "{v}" in ask:
            v, others = s, [subject for subject, value in rows.items() if value != v]
            rng.shuffle(others)
        question = ask.format(s=s, v=rows[s])
        questions.append([Draft(fact, question, v, tuple(others[:4]))])
    return checks, questions


def draft_comparisons(rng: random.Random) -> list[list[Draft]]:
    """Yes-or-no questions of which the false one has its two things swapped."""
    units = []
    for line in COMPARISONS.strip().split("\n"):
        word, pair = line.split(": ")
        more, less = pair.split(", ")
        ask = rng.choice(["is {} {} than {}?", "would you expect {} to be {} than {}?"])
        true, false = ask.format(more, word, less), ask.format(less, word, more)
        units.append([Draft(f"{word}: {pair}", "", true, (false,))])
    return units


def draft_choices() -> list[list[Draft]]:
    """Questions with choices of their own."""
    units = []
    for line in CHOICES.strip().split("\n"):
        question, choices = line.split("? ")
        right, *wrong = choices.split("; ")
        units.append([Draft(question, f"{question}?", right, tuple(wrong))])
    return units


def draft_solutions() -> list[list[Draft]]:
    """Pairs of goals that offer the same two solutions."""
    phrasings = [
        "How do you {}?",
        "What is a good way to {}?",
        "You want to {}. What should you do?",
        "To {},",
    ]
    units = []
    for i, block in enumerate(SOLUTIONS.strip().split("\n\n")):
        (goal_a, a), (goal_b, b) = (line.split(" -> ") for line in block.split("\n"))
        ask = phrasings[i % len(phrasings)]
        units.append([Draft(goal_a, ask.format(goal_a), a, (b,))])
        units[-1].append(Draft(goal_a, ask.format(goal_b), b, (a,)))
    return units


def draft_endings(rng: random.Random) -> list[list[Draft]]:
    """Groups of four scenes that offer the same four endings."""
    units = []
    for block in ENDINGS.strip().split("\n\n"):
        scenes = dict(line.split(" -> ") for line in block.split("\n"))
        fact, unit = next(iter(scenes)), []
        for scene, ending in scenes.items():
            wrong = [other for other in scenes.values() if other != ending]
            rng.shuffle(wrong)
            unit.append(Draft(fact, scene, ending, tuple(wrong)))
        units.append(unit)
    return units


def draft_twins() -> list[list[Draft]]:
    """Pairs of sentences that differ in a word or two, which changes what fills the blank."""
    units = []
    for line in TWINS.strip().split("\n"):
        start, first, second, end, a, b = re.fullmatch(
            r"(.*)\[(.*)\|(.*)\](.*\.) (.*), (.*)", line
        ).groups()
        units.append([Draft(line, f"{start}{first}{end}", a, (b,))])
        units[-1].append(Draft(line, f"{start}{second}{end}", b, (a,)))
    return units


def balanced_positions(n: int, rng: random.Random) -> Iterator[int]:
    """0 to n-1 without end, each once in every block of n, in random order within the block."""
    while True:
        yield from rng.sample(range(n), n)


def compose(form: str, draft: Draft, n: int, position: int) -> dict[str, str]:
    """The record with the right choice at `position` of `n`."""
    if form == "true/false":
        labels = ["true", "false"]
        question = (draft.right, *draft.wrong)[position]
        body = f"Please answer the following question with true or false, question: {question}"
    else:
        labels = [f"{form}{i + 1}" for i in range(n)]
        texts = list(draft.wrong[: n - 1])
        texts.insert(position, draft.right)
        gap = "\n\n" if form == "solution" else " "
        choices = gap.join(
            f"{label.capitalize()}: {text}" for label, text in zip(labels, texts, strict=True)
        )
        ask = {
            "answer": "Please choose the correct answer to the question",
            "solution": "Please choose the correct solution to the question",
            "ending": "Please choose the correct ending to complete the given sentence",
            "option": "Please choose the correct answer to fill in the blank "
            "to complete the given sentence",
        }[form]
        body = f"{ask}: {draft.question}\n\n{choices}"
    # The published WinoGrande records have the format sentence on the line of the options.
    gap = " " if form == "option" else "\n\n"
    return {
        "instruction": f"{body}{gap}Answer format: {'/'.join(labels)}",
        "input": "",
        "output": f"the correct answer is {labels[position]}",
        "answer": labels[position],
        "task": form,
    }


def make_splits() -> dict[str, list[Made]]:
    """All records by split, each with its fact. A fact never leaves its split."""
    rng = random.Random(0)
    comparisons = draft_comparisons(rng)
    n_checks = TRAIN["true/false"] + 2 * HELD_OUT["true/false"] - len(comparisons)
    checks, questions = draft_tables(n_checks, rng)
    units_by_form = {
        "true/false": checks + comparisons,
        "answer": questions + draft_choices(),
        "solution": draft_solutions(),
        "ending": draft_endings(rng),
        "option": draft_twins(),
    }
    splits: dict[str, list[Made]] = {split: [] for split in SPLITS}
    for form, units in units_by_form.items():
        rng.shuffle(units)
        drafts = [draft for unit in units for draft in unit]
        train, held_out = TRAIN[form], HELD_OUT[form]
        if len(drafts) != train + 2 * held_out:
            raise ValueError(f"{form}: {len(drafts)} drafts for {train} + 2 * {held_out} records")
        parts = drafts[:train], drafts[train : train + held_out], drafts[train + held_out :]
        for split, part in zip(SPLITS, parts, strict=True):
            positions: dict[int, Iterator[int]] = {}
            for i, draft in enumerate(part):
                # A third of the "answer" questions that have four wrong choices show them all.
                n = min(len(draft.wrong) + 1, 4 if i % 3 else 5)
                if n not in positions:
                    positions[n] = balanced_positions(n, rng)
                record = compose(form, draft, n, next(positions[n]))
                splits[split].append(Made(draft.fact, record))
    for made in splits.values():
        rng.shuffle(made)
    return splits


def to_json(made: list[Made]) -> str:
    """The text of a split's file."""
    return json.dumps([m.record for m in made], indent=1) + "\n"


def main() -> None:
    """Writes train.json, validation.json and test.json beside this script."""
    for split, made in make_splits().items():
        Path(__file__).with_name(f"{split}.json").write_text(to_json(made), encoding="utf-8")


if __name__ == "__main__":
    main()
