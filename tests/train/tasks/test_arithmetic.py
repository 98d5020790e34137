import pytest

from train import tasks


@pytest.mark.parametrize(
    ("text", "gold", "answer", "right"),
    [
        ("The answer is 145.", "145", "145.", True),
        ("The answer is 145.0", "145.0", "145.0", True),
        ("He has 1,200 apples", "1200", "1200", True),
        ("1,234,567.5", "1234567.5", "1234567.5", True),
        ("3 + 4 = 7", "7", "7", True),
        ("7 is 3 + 4", "7", "4", False),
        ("the answer is -5", "-5", "-5", True),
        ("10-5", "5", "-5", False),
        ("no number at all", "5", None, False),
        ("", "5", None, False),
        ("$12.50", "12.5", "12.50", True),
        ("12.501", "12.5", "12.501", True),
        ("12.502", "12.5", "12.502", False),
        ("0.3333", "0.333", "0.3333", True),
        ("50%", "50", "50", True),
        ("it is 8 in 2024", "8", "2024", False),
        ("1/2", "0.5", "2", False),
        ("three", "3", None, False),
        ("Answer: 42\nAnswer: 43", "43", "43", True),
        ("5.", "5", "5.", True),
        ("x10y", "10", "10", True),
        ("6,000", "6,000", "6000", True),
        ("--7", "-7", "-7", True),
        ("1.2.3", "3", "3", True),
    ],
)
def test_the_last_number_counts_within_a_thousandth(text, gold, answer, right):
    judge = tasks.task("SVAMP")
    found = judge.answer(text, gold)
    assert found == answer
    assert (found is not None and judge.right(found, gold)) == right


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is (C).", "C"),
        ("C", "C"),
        ("(D) 12", "D"),
        ("Because 3 < 4, E", "B"),
        ("Answer: C", "A"),
        ("the answer is b", None),
        ("the answer is B", "B"),
        ("F or C", "C"),
        ("", None),
        ("12.5", None),
        ("DNA", "D"),
        ("every choice but E", "E"),
        ("A and B", "A"),
        ("B and A", "B"),
        ("the options are (A) 1 (B) 2; (B)", "A"),
        ("Zoë said E", "E"),
        ("ABCDE", "A"),
        ("none of these", None),
        ("x = 5\nE", "E"),
        ("THE ANSWER IS D", "E"),
        ("Correct: D", "C"),
    ],
)
def test_the_first_capital_from_a_to_e_counts_wherever_it_stands(text, answer):
    assert tasks.task("AQuA").answer(text, "A") == answer


def test_letters_must_be_equal():
    judge = tasks.task("AQuA")
    assert judge.right("A", "A")
    assert not judge.right("A", "B")


@pytest.mark.parametrize(
    ("task", "gold", "message"),
    [
        ("SVAMP", "five", "answer 'five' is no number"),
        ("AQuA", "F", "answer 'F' is none of A, B, C, D and E"),
        ("AQuA", "AB", "answer 'AB' is none of A, B, C, D and E"),
        ("boolq", "answer1", "answer 'answer1' is none of true, false"),
        ("boolq", "yes", "answer 'yes' is none of the commonsense format"),
    ],
)
def test_a_gold_that_a_task_cannot_have_is_refused(task, gold, message):
    with pytest.raises(ValueError, match=message):
        tasks.task(task).require(gold)


def test_an_unknown_task_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown task 'bool'; did you mean 'boolq'"):
        tasks.task("bool")
    with pytest.raises(ValueError, match="unknown task 'xyz'; choose one of commonsense, boolq"):
        tasks.task("xyz")
