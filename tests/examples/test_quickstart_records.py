import importlib.util
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
COUNTS = {"train": 400, "validation": 48, "test": 48}
FORMS = {"true/false", "answer", "solution", "ending", "option"}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "quickstart_make_records", QUICKSTART / "make_records.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


make_records = load_script()


@pytest.fixture(scope="module")
def splits():
    return make_records.make_splits()


@pytest.fixture(scope="module")
def records(splits):
    return [m.record for made in splits.values() for m in made]


def labels(record):
    return record["instruction"].rsplit("Answer format: ", 1)[1].split("/")


def shown_choices(record):
    """The texts of the choices that the instruction shows, by label."""
    body = record["instruction"].rsplit("Answer format: ", 1)[0]
    texts = re.split(r"(?:Answer|Solution|Ending|Option)\d: ", body)[1:]
    return {label: text.strip() for label, text in zip(labels(record), texts, strict=True)}


def words(text):
    return f" {' '.join(re.findall(r'[a-z0-9-]+', text.lower()))} "


@pytest.mark.parametrize("split", COUNTS)
def test_script_reproduces_the_committed_file_byte_for_byte(splits, split):
    committed = (QUICKSTART / f"{split}.json").read_bytes()
    assert make_records.to_json(splits[split]).encode() == committed


@pytest.mark.parametrize("split", COUNTS)
def test_file_holds_its_count_and_every_form(split):
    records = json.loads((QUICKSTART / f"{split}.json").read_text(encoding="utf-8"))
    assert len(records) == COUNTS[split]
    assert {record["task"] for record in records} == FORMS


def test_records_have_the_published_keys_and_a_form(records):
    for record in records:
        assert list(record) == ["instruction", "input", "output", "answer", "task"]
        assert record["input"] == ""
        assert record["output"] == f"the correct answer is {record['answer']}"
        assert len(record["instruction"].split()) < 70


def test_answer_is_among_the_choices_and_the_choices_differ(records):
    for record in records:
        assert record["answer"] in labels(record)
        if record["task"] == "true/false":
            assert labels(record) == ["true", "false"]
        else:
            texts = shown_choices(record)
            assert all(label.startswith(record["task"]) for label in texts)
            assert len(set(texts.values())) == len(texts)


def test_gold_answers_are_balanced_over_positions(splits):
    by_choices = defaultdict(Counter)
    for _, record in splits["train"]:
        by_choices[record["task"], tuple(labels(record))][record["answer"]] += 1
    assert {form for form, _ in by_choices} == FORMS
    for (form, choices), gold in by_choices.items():
        uniform = gold.total() / len(choices)
        for choice in choices:
            assert 0.6 <= gold[choice] / uniform <= 1.4, (form, choice, gold)


def test_no_instruction_occurs_twice(records):
    assert len({words(record["instruction"]) for record in records}) == len(records)


def test_no_fact_is_in_two_splits(splits):
    facts = {split: {m.fact for m in made} for split, made in splits.items()}
    assert not facts["train"] & facts["test"]
    assert not facts["train"] & facts["validation"]
    assert not facts["validation"] & facts["test"]


def test_no_record_of_another_split_names_both_ends_of_a_held_out_fact(splits):
    rows = {
        f"{name}: {subject}": (words(subject), words(value))
        for name, _, _, table in make_records.parse_tables()
        for subject, value in table.items()
    }
    seen = 0
    for split in ("validation", "test"):
        held_out = {m.fact: rows[m.fact] for m in splits[split] if m.fact in rows}
        others = [
            (m.fact, words(m.record["instruction"]))
            for other, made in splits.items()
            if other != split
            for m in made
        ]
        for fact, (subject, value) in held_out.items():
            for other_fact, text in others:
                assert not (subject in text and value in text), (fact, other_fact)
        seen += len(held_out)
    assert seen > 40


def test_each_fact_is_drafted_once(splits):
    """Only solutions and options come in pairs, and endings in fours."""
    group = {"true/false": 1, "answer": 1, "solution": 2, "ending": 4, "option": 2}
    uses = Counter((m.record["task"], m.fact) for made in splits.values() for m in made)
    for (form, fact), n in uses.items():
        assert n == group[form], fact
    assert len({fact for _, fact in uses}) == len(uses)
