"""Scores of a task of one's own: what is right, and what is not."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from train.tasks import own

CHOICES = {"choices": ["cat", "dog", "dogfish"]}
LETTERS = {"choices": ["A", "B"]}


@pytest.mark.parametrize(
    ("metric", "output", "golds", "record", "expected"),
    [
        ("exact", " the  red\ncat ", ["the red cat"], {}, 1),
        ("exact", "The red cat", ["the red cat"], {}, 0),
        ("exact", "b", ["a", "b"], {}, 1),
        ("contains", "It is THE red\n cat.", ["red Cat"], {}, 1),
        ("contains", "It is red.", ["red cat", "blue"], {}, 0),
        ("number", "so 3 + 4 make 7.", ["7"], {}, 1),
        ("number", "7, not 8", ["7"], {}, 0),
        ("number", "1,200", ["a long way #### 1200.0005"], {}, 1),
        ("number", "none", ["7"], {}, 0),
        ("choice", "A Dog, not a cat", ["dog"], CHOICES, 1),
        ("choice", "a dogfish", ["dogfish"], CHOICES, 1),
        ("choice", "dogs", ["dog"], CHOICES, 0),
        ("choice", "", ["dog"], CHOICES, 0),
        ("choice", "a thing: (B)", ["B"], LETTERS, 1),
        ("choice", "a thing", ["A"], LETTERS, 0),
    ],
)
def test_an_output_is_scored(metric, output, golds, record, expected):
    assert own.load(metric)(output, golds, record) == expected


def test_rouge_l_is_the_librarys_best_of_the_answers():
    scorer = RougeScorer(["rougeL"])
    output, golds = "the red cat sleeps", ["a cat sleeps", "the red dog"]
    expected = max(scorer.score(gold, output)["rougeL"].fmeasure for gold in golds)
    assert own.load("rouge_l")(output, golds, {}) == expected
    assert 0 < expected < 1


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's in the directory of the command."""
    (tmp_path / "mine_of_test.py").write_text(
        "def short(output, record):\n    return len(output) <= record['limit']\n"
        "def wrong(output, record):\n    return 'good'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "mine_of_test.py"


def test_a_function_of_the_user_gets_the_text_and_the_record(mine):
    score = own.load("mine_of_test:short")
    assert [score(text, ("x",), {"limit": 3}) for text in ("abc", "abcd")] == [1.0, 0.0]
    assert own.origin("mine_of_test:short") == str(mine)
    assert own.origin("exact") is None
    with pytest.raises(ValueError, match="gave 'good' for the output 'abc'; it must give"):
        own.load("mine_of_test:wrong")("abc", (), {})
    with pytest.raises(ValueError, match=r"mine_of_test\.py has no function shrt"):
        own.load("mine_of_test:shrt")
    with pytest.raises(ImportError, match=r"start the command in the directory of nowhere\.py"):
        own.load("nowhere:short")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "metrics is empty; name one that scores outputs: exact"),
        (("loss",), "metrics is loss; name one that scores outputs"),
        (
            ("exakt",),
            "metrics has 'exakt'; choose from exact, contains, number, choice, rouge_l, l",
        ),
        (("a b:c",), "or name a function of yours as module:function"),
        (("exact", "exact"), "metrics has a name twice"),
    ],
)
def test_a_metric_that_is_none_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        own.require_names(names)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "has no text, number or list of them in field 'answer'"),
        ({"answer": []}, "has no text, number or list"),
        ({"answer": " "}, "has no text, number or list"),
        ({"answer": True}, "has no text, number or list"),
        ({"answer": "red"}, "has no number in its answer 'red'"),
        ({"answer": "1"}, "has no list of texts in field 'choices'"),
        ({"answer": "1", "choices": ["2"]}, "has the answer '1', which is none of its choices"),
    ],
)
def test_a_record_that_cannot_be_scored_is_refused(record, message):
    with pytest.raises(ValueError, match=message):
        own.require(record, own.golds_of(record), ["number", "choice"])


CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("record", "style", "expected"),
    [
        ({"messages": CHAT}, "auto", {"messages": [*CHAT, {"role": "assistant", "content": "b"}]}),
        ({"prompt": "a"}, "plain", {"prompt": "a", "completion": "b"}),
        ({"prompt": "a", "answer": "b"}, "hira", {"instruction": "a", "output": "b"}),
        ({"messages": CHAT}, "convai2", {"persona": ["s"], "history": ["a"], "output": "b"}),
        (
            {"instruction": "a", "input": "c"},
            "hira",
            {"instruction": "a", "input": "c", "output": "b"},
        ),
    ],
)
def test_a_question_with_its_answer_is_a_record_of_the_run(record, style, expected):
    assert own.answered(record, "b", style) == expected


def test_answers_may_be_numbers_and_several():
    assert own.golds_of({"answer": 3}) == ("3",)
    assert own.golds_of({"answer": ["a", 2.5]}) == ("a", "2.5")
