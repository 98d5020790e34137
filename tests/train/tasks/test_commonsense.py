import pytest

from train import tasks
from train.tasks.commonsense import LABELS, answer_in


def prompt(style, inference=False):
    return tasks.prompt({"instruction": "Is water wet?"}, style, inference=inference)


def test_the_hira_template_to_the_character():
    expected = (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.  \n\n### Instruction:\nIs water wet?\n\n### Response:\n"
    )
    assert prompt("hira") == prompt("hira", inference=True) == expected


def test_the_llm_adapters_templates_to_the_character():
    assert prompt("llm-adapters") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.  \n\n                ### Instruction:\n                "
        "Is water wet?\n                \n                ### Response:\n                "
    )
    assert prompt("llm-adapters", inference=True) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request. \n\n                ### Instruction:\n                "
        "Is water wet?\n\n                ### Response:\n                "
    )


@pytest.mark.parametrize(
    ("output", "style", "expected"),
    [
        (" the correct answer is true\n", "hira", "the correct answer is true"),
        ("true Q: is it? false", "hira", "true"),
        ("true R: false", "hira", "true"),
        ("true R: false Q: x", "convai2", "true"),
        ("i like QR: codes", "convai2", "i like Q"),
        ("A ### Response: B", "llm-adapters", "A"),
        ("A Q: B", "llm-adapters", "A Q: B"),
        ("Q: x", "hira", ""),
    ],
)
def test_an_output_ends_where_the_next_prompt_begins(output, style, expected):
    assert tasks.cut(output, style) == expected


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("the correct answer is true", "true", "true"),
        ("the correct answer is false, not true", "true", "false"),
        ("True", "true", None),
        ("untrue", "false", "true"),
        ("solution2", "solution1", "solution2"),
        ("solution3", "solution1", None),
        ("answer5 or answer1", "answer2", "answer5"),
        ("answer6", "answer2", None),
        ("answer12", "answer2", "answer1"),
        ("ending4.", "ending1", "ending4"),
        ("ending5", "ending1", None),
        ("option1", "option2", "option1"),
        ("Option1", "option2", None),
        ("the correct answer is answer1", "option2", None),
        ("", "ending1", None),
        ("the correct answer is  option2 ", "option1", "option2"),
        ("falsehood", "true", "false"),
        ("TRUE", "false", None),
        ("solution 1", "solution1", None),
        ("answer0", "answer1", None),
        ("the answer is ending3, ending1", "ending1", "ending3"),
        ("it is true that it is false", "false", "true"),
    ],
)
def test_the_first_answer_of_the_golds_kind_counts(text, gold, expected):
    assert answer_in(text, gold) == expected


def test_every_label_of_every_task_is_found():
    for labels in LABELS.values():
        for label in labels:
            assert answer_in(f"the correct answer is {label}", labels[0]) == label


def test_a_gold_of_no_kind_is_refused():
    with pytest.raises(ValueError, match="answer 'maybe' is none of the commonsense format"):
        answer_in("maybe", "maybe")
