import pytest

from train.tasks.commonsense import answer_in, prompt


def test_the_hira_template_to_the_character():
    assert prompt("Is water wet?", "hira") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.  \n\n### Instruction:\nIs water wet?\n\n### Response:\n"
    )


def test_the_llm_adapters_template_to_the_character():
    assert prompt("Is water wet?", "llm-adapters") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.  \n\n                ### Instruction:\n                "
        "Is water wet?\n                \n                ### Response:\n                "
    )


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
    ],
)
def test_the_first_answer_of_the_golds_kind_counts(text, gold, expected):
    assert answer_in(text, gold) == expected


def test_a_gold_of_no_kind_is_refused():
    with pytest.raises(ValueError, match="answer 'maybe' is none of the commonsense format"):
        answer_in("maybe", "maybe")
