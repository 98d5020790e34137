"""The terminal chat: what each line does."""

import pytest

from train.generation.chat import HELP, chat


class Parrot:
    """Says what it was told, a word at a time."""

    tuned, remembers = True, True

    def __init__(self):
        self.asked = []

    def reply(self, messages, base):
        self.asked.append(([each["content"] for each in messages], base))
        for word in messages[-1]["content"].split():
            if word == "stop":
                raise KeyboardInterrupt
            if word == "full":
                raise ValueError("the prompt has 300 tokens")
            yield word + " "


def talk(*lines, speaker=None):
    """The speaker after the lines, what was said, and the conversation."""
    speaker = speaker or Parrot()
    given, said, prompts = iter(lines), [], []

    def ask(prompt):
        prompts.append(prompt)
        line = next(given, EOFError)
        if isinstance(line, str):
            return line
        raise line

    def write(text="", end="\n", flush=False):
        said.append(text + end)

    messages = chat(speaker, ask, write)
    return speaker, "".join(said), [each["content"] for each in messages], prompts


def test_turns_follow_each_other_and_reset_forgets_them():
    speaker, said, messages, _ = talk("one two", "", "three", "/reset", "four")
    assert speaker.asked == [
        (["one two"], False),
        (["one two", "one two ", "three"], False),
        (["four"], False),
    ]
    assert messages == ["four", "four "]
    assert said.startswith(HELP + "\none two \nthree \n")


def test_base_switches_the_adapter_off_and_on():
    speaker, said, _, prompts = talk("a", "/base", "b", "/base", "c")
    assert [base for _, base in speaker.asked] == [False, True, False]
    assert "The base answers now.\nb \nThe tuned model answers now.\nc " in said
    assert prompts == ["> ", "> ", "base> ", "base> ", "> ", "> "]
    alone = Parrot()
    alone.tuned = False
    _, said, _, _ = talk("/base", "a", speaker=alone)
    assert "There is no adapter: the base answers." in said
    assert alone.asked == [(["a"], False)]


def test_ctrl_c_stops_an_answer_and_what_was_said_stays():
    _, said, messages, _ = talk("one stop two", "next")
    assert "one  [stopped]\n" in said
    assert messages == ["one stop two", "one ", "next", "next "]


def test_ctrl_c_at_the_prompt_says_how_to_end_and_ctrl_d_ends():
    _, said, messages, _ = talk(KeyboardInterrupt, "a")
    assert said.count(HELP) == 2
    assert messages == ["a", "a "]
    assert talk("/quit", "a")[0].asked == []


def test_a_conversation_without_room_is_told_and_goes_on_as_before():
    _, said, messages, _ = talk("a", "full", "b")
    assert "error: the prompt has 300 tokens. /reset begins anew" in said
    assert messages == ["a", "a ", "b", "b "]


@pytest.mark.parametrize("line", ["/help", "/bse", "/"])
def test_an_unknown_command_gets_a_line_of_help(line):
    speaker, said, _, _ = talk(line)
    assert said.count(HELP) == 2
    assert speaker.asked == []


def test_a_model_of_single_prompts_is_asked_each_line_alone():
    alone = Parrot()
    alone.remembers = False
    speaker, said, _, _ = talk("a", "b", speaker=alone)
    assert speaker.asked == [(["a"], False), (["b"], False)]
    assert "Each line is asked alone" in said
