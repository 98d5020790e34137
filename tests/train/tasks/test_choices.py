import ast
import importlib.util
from pathlib import Path

import jinja2
import pytest
import yaml

from train.tasks import choices

TASKS = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"


def record(request, stem, parts, answer, gap=" "):
    """A record as LLM-Adapters writes it."""
    listed = gap.join(f"{name}: {text}" for name, text in parts.items())
    hint = "/".join(name.lower() for name in parts) or "true/false"
    body = f"{listed}\n\n" if listed else ""
    return {
        "instruction": f"{request}: {stem}\n\n{body}Answer format: {hint}",
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


ASK = "Please choose the correct answer to the question"
BOOLQ = record(
    "Please answer the following question with true or false, question", "is it so?", {}, "false"
)
PIQA = record(
    "Please choose the correct solution to the question",
    "How do I rinse a cup: fast?",
    {"Solution1": "Use water,\nthen wait.", "Solution2": "Use sand "},
    "solution2",
    gap="\n\n",
)
SIQA = record(ASK, "A met B. Why?", {"Answer1": "ok", "Answer2": "a: b", "Answer3": "c"}, "answer1")
ARC = record(ASK, "2 + 2\n\nis?", {f"Answer{i}": f"number {i}" for i in (1, 2, 3, 4, 5)}, "answer4")
HELLASWAG = record(
    "Please choose the correct ending to complete the given sentence",
    "Tea: A man boils water. He",
    {"Ending1": "sings.", "Ending2": " runs. He stops.", "Ending3": "x", "Ending4": "y"},
    "ending2",
)
WINOGRANDE = record(
    "Please choose the correct answer to fill in the blank to complete the given sentence",
    "The cup fit the box since _ was small. Good.",
    {"Option1": "the cup", "Option2": "the box"},
    "option1",
)
WINOGRANDE["instruction"] = WINOGRANDE["instruction"].replace("\n\nAnswer format", " Answer format")


@pytest.mark.parametrize(
    ("row", "count"),
    [(BOOLQ, 2), (PIQA, 2), (SIQA, 3), (ARC, 5), (HELLASWAG, 4), (WINOGRANDE, 2)],
)
def test_the_labels_are_the_outputs_of_the_format(row, count):
    found = choices.labels(row)
    assert len(found) == len(set(found)) == len(choices.texts(row)) == count
    assert found[choices.gold(row)] == row["output"]


def test_texts_are_read_from_the_instruction():
    assert choices.texts(BOOLQ) == [
        ("Question: is it so?\nAnswer:", " yes"),
        ("Question: is it so?\nAnswer:", " no"),
    ]
    assert choices.texts(SIQA)[1] == ("Question: A met B. Why?\nAnswer:", " a: b")
    assert choices.texts(ARC)[4] == ("Question: 2 + 2\n\nis?\nAnswer:", " number 5")
    assert choices.texts(HELLASWAG)[1] == ("Tea: A man boils water. He", " runs. He stops.")
    assert choices.gold(BOOLQ) == 1


@pytest.mark.parametrize(
    ("row", "path", "doc"),
    [
        (
            PIQA,
            "piqa/piqa.yaml",
            {
                "goal": "How do I rinse a cup: fast?",
                "sol1": "Use water,\nthen wait.",
                "sol2": "Use sand",
            },
        ),
        (
            ARC,
            "arc/arc_easy.yaml",
            {
                "question": "2 + 2\n\nis?",
                "choices": {"text": [f"number {i}" for i in (1, 2, 3, 4, 5)]},
            },
        ),
    ],
)
def test_texts_are_those_of_lm_evaluation_harness(row, path, doc):
    task = yaml.safe_load((TASKS / path).read_text())
    context = jinja2.Template(task["doc_to_text"]).render(doc)
    texts = ast.literal_eval(jinja2.Template(task["doc_to_choice"]).render(doc))
    assert choices.texts(row) == [(context, f" {text}") for text in texts]


def test_options_are_partly_evaluated_as_in_lm_evaluation_harness():
    path = TASKS / "winogrande" / "preprocess_winogrande.py"
    spec = importlib.util.spec_from_file_location("preprocess_winogrande", path)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    doc = {
        "sentence": "The cup fit the box since _ was small. Good.",
        "option1": "the cup",
        "option2": "the box",
    }
    continuation = " " + theirs.doc_to_target(doc)
    expected = [(context, continuation) for context in theirs.doc_to_choice(doc)]
    assert choices.texts(WINOGRANDE) == expected
    assert expected[0] == ("The cup fit the box since the cup", " was small. Good.")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Answer format: answer1/answer2/answer3", "", "does not end in 'Answer format"),
        ("/answer3", "/answer9", "'answer9' is none of the commonsense format"),
        ("Answer2:", "Answer4:", "lacks its question or one of Answer1:, Answer2:"),
        ("a: b", "", "lacks its question or one of"),
        (f"{ASK}: A met B. Why?", "", "lacks its question or one of"),
    ],
)
def test_a_record_of_another_format_is_refused(old, new, message):
    changed = SIQA | {"instruction": SIQA["instruction"].replace(old, new)}
    assert changed != SIQA
    for reader in (choices.labels, choices.texts, choices.gold):
        with pytest.raises(ValueError, match=message):
            reader(changed)


def test_an_answer_that_is_not_listed_is_refused():
    with pytest.raises(ValueError, match="'answer5' is none of answer1, answer2, answer3"):
        choices.gold(SIQA | {"answer": "answer5"})


def test_options_need_a_blank():
    changed = WINOGRANDE["instruction"].replace("_", "it")
    with pytest.raises(ValueError, match="no blank '_' to fill in"):
        choices.texts(WINOGRANDE | {"instruction": changed})
