import pytest

from train.tasks import convai2

LINES = [
    "1 your persona: i ski.\n",
    "2 partner's persona: i read.\n",
    "3 your persona: i cook.\n",
    "4 hi !\thello .\t\tyes|no\n",
    "5 hobbies ?\ti ski .\n",
    "6 where ?\tin the alps .\n",
    "1 your persona: i run.\n",
    "2 __SILENCE__\tmorning !\n",
    "3 morning .\tfine day .\n",
]


def test_each_answer_is_a_record_with_what_was_said_before():
    first, second = convai2.dialogues(LINES)
    assert [turn["output"] for turn in first] == ["hello .", "i ski .", "in the alps ."]
    assert first[2]["history"] == ["hi !", "hello .", "hobbies ?", "i ski .", "where ?"]
    assert all(turn["persona"] == ["i ski.", "i cook."] for turn in first)
    assert second == [
        {"persona": ["i run."], "history": [], "output": "morning !"},
        {"persona": ["i run."], "history": ["morning !", "morning ."], "output": "fine day ."},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello\tyou", "line 2 does not begin with the number of a turn: 'hello"),
        ("2 hello", "line 2 holds neither a persona nor an answer: '2 hello'"),
        ("2 hello\t", "line 2 holds neither a persona nor an answer"),
    ],
)
def test_a_line_of_another_format_is_named(line, message):
    with pytest.raises(ValueError, match=message):
        convai2.dialogues(["1 your persona: i ski.", line])


def test_a_file_that_begins_within_a_dialogue_is_refused():
    with pytest.raises(ValueError, match="line 1 is turn 5, but no dialogue has begun"):
        convai2.dialogues(["5 hi\thello"])


def test_the_prompt_holds_the_last_utterances_and_says_whose_they_are():
    persona, history = ["i ski.", "i cook."], ["hi !", "hello .", "hobbies ?", "i ski .", "where ?"]
    assert convai2.prompt(persona, history, 3) == (
        "CONTEXT: persona: i ski. i cook. context:  Q: hobbies ? R: i ski . Q: where ? TARGET:"
    )
    assert convai2.prompt(persona, history[:1], 3) == (
        "CONTEXT: persona: i ski. i cook. context:  Q: hi ! TARGET:"
    )
    assert convai2.prompt(persona, history, 2).endswith("context:  R: i ski . Q: where ? TARGET:")
