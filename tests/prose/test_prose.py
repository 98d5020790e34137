"""The docs, docstrings and messages are in short sentences and today's names."""

from pathlib import Path

import pytest

from tests.prose import code, pages, renamed, sentences
from tests.prose.sentences import Piece

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("of", [pages, code], ids=["pages", "code"])
def test_no_sentence_is_too_long(of):
    found = sentences.too_long(of.pieces(ROOT))
    assert not found, "\n".join(f"{one.file}:{one.line}: {one.words} words" for one in found)


def test_no_old_name_is_used():
    assert not renamed.found(ROOT)


def words(pieces):
    return [(one.line, one.words) for one in sentences.of_pieces(pieces)]


def test_sentences_end_at_marks_and_not_in_code_or_numbers():
    text = 'It has `a. B` and 3.5 of e.g. Llama. "Two?" `three` does: yes;\nno. Then - four'
    assert words([Piece("x", 4, text)]) == [(4, 9), (4, 1), (4, 4), (5, 2)]


def test_a_sentence_is_too_long_by_one_word():
    text = "word " * 35 + "- ."
    assert sentences.too_long([Piece("x", 1, text)]) == []
    (found,) = sentences.too_long([Piece("x", 1, "another " + text)])
    assert (found.words, found.line) == (36, 1)


def test_of_a_page_each_item_and_cell_stands_for_itself():
    page = """# One title

A line
and [another](link.md) with `a code`:

- an item
  of two lines
- a second

| head of | two |
| --- | --- |
| a cell | b. Two |

```sh
not a sentence
```
"""
    found = [(1, 2), (3, 7), (6, 5), (8, 2), (10, 2), (10, 1), (12, 2), (12, 1), (12, 1)]
    assert words(pages.of_markdown(page, "x")) == found
    assert list(pages.code_spans(page)) == [(4, "a code"), (15, "not a sentence")]


def test_of_code_docstrings_and_literals_count_and_examples_do_not():
    file = '''"""A module.

    python -m a.command

- one item
  goes on
- and one
"""

def f(a):
    """Do it.

    Args:
        a: the first
            of all. Not b.

    Returns:
        what
        it is.

    Example:
        >>> f(1)
    """
    raise ValueError(f"{a} is wrong;\\n" + a + "give one")

_WORDS = "one two"
for word in _WORDS.split():
    pass
'''
    docstrings = [(1, 2), (5, 4), (7, 2), (11, 2), (14, 4), (15, 2), (18, 3)]
    literals = [(24, 3), (24, 2)]
    assert words(code.of_python(file, "x")) == docstrings + literals


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def claim(): pass", "claim"),
        ("f(loss_on=1)", "loss_on"),
        ("x.accumulate", "accumulate"),
        ("class Served: pass", "Served"),
        ('x = "set loop.accumulate to 2"', "loop.accumulate"),
    ],
)
def test_an_old_identifier_is_found(text, name):
    (use,) = renamed.in_python(text, "train/x.py")
    assert (use.name, use.line) == (name, 1)
    assert not list(renamed.in_python(text.replace(name, name + "s"), "train/x.py"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Pass `--config.data.packed_tokens=4`.", "data.packed_tokens"),
        ("As `TeRA(wide='fast')`.", 'wide="fast"'),
        ("The `Stream` of it.", "Stream"),
        ("```sh\n--config.method.core=fast\n```", "method.core"),
    ],
)
def test_an_old_name_is_found_in_code_of_a_page(text, name):
    assert name in [use.name for use in renamed.in_markdown(text, "x")]
    assert not list(renamed.in_markdown(text.replace("`", ""), "x"))


def test_an_old_name_has_a_new_one_that_is_used():
    text = "\n".join(path.read_text() for path in code.files(ROOT))
    new = {name.split(".")[-1] for name in renamed.NAMES.values() if " " not in name}
    assert {name for name in new if name not in text} == set()
