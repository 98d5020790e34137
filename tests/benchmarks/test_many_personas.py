"""The benchmark of many personas, on a tiny model."""

import sys

import pytest

from benchmarks import many_personas
from train import command


def dialogue(persona, *answers):
    lines = [f"your persona: {persona}.", *(f"hi {a} ?\tthe {a} ." for a in answers)]
    return "".join(f"{number} {line}\n" for number, line in enumerate(lines, 1))


TEXT = "".join(
    dialogue(persona, *answers)
    for persona, *answers in (
        ("i ski", "red", "cat"),
        ("i cook", "sun", "sea", "dog"),
        ("i ski", "blue", "one"),
        ("i sing", "two"),
        ("i cook", "sun", "red"),
        ("i cook", "cat", "dog"),
    )
)


def test_personas_have_their_dialogues_and_the_last_is_held_out(tmp_path):
    found = many_personas.personas(TEXT)
    assert [*map(len, found.values())] == [3, 2, 1]
    assert next(iter(found)) == ("i cook.",)
    file = many_personas.write(found, 2, tmp_path)
    assert len(file.read_text().splitlines()) == 2
    cook = dialogue("i cook", "sun", "sea", "dog") + dialogue("i cook", "sun", "red")
    assert (tmp_path / "persona-00.txt").read_text() == cook
    assert (tmp_path / "persona-00-held-out.txt").read_text() == dialogue("i cook", "cat", "dog")
    with pytest.raises(ValueError, match="2 personas have two dialogues or more; give --count=2"):
        many_personas.write(found, 3, tmp_path)


@pytest.mark.long
def test_one_run_gives_the_losses_of_runs_in_turn(tiny_llama, tmp_path, monkeypatch, capsys):
    file = tmp_path / "dialogues.txt"
    file.write_text(TEXT)
    given = {"count": 2, "checked": 1, "steps": 6, "batch-size": 2, "dtype": "float32"}
    paths = {"dialogues": file, "model": tiny_llama, "workdir": tmp_path / "run"}
    flags = [f"--{name}={value}" for name, value in (given | paths).items()]
    monkeypatch.setattr(sys, "argv", ["many_personas", *flags])
    command.run(many_personas.main)
    said = capsys.readouterr().out
    (row,) = [line for line in said.splitlines() if line.startswith("| persona-00")]
    before, together, alone, difference, _ = map(float, row.split("|")[2:7])
    assert abs(difference) < 1e-4
    assert together == pytest.approx(alone, abs=1e-4)
    assert before - together > 1e-2
    assert "; lower for 2" in said
    assert "one run of 2 adapters" in said
