"""The notebooks run, and the outputs that are committed are those of their sources."""

import copy
import os
from pathlib import Path

import nbformat
import pytest

from notebooks import runner

ROOT = Path(__file__).parents[2]
NAMES = ["01_quickstart", "02_your_own_chats", "03_any_linen_model", "04_the_papers_figures"]


def path(name):
    return ROOT / "notebooks" / f"{name}.ipynb"


def test_these_are_the_notebooks_and_the_pages_name_them():
    assert runner.paths() == [path(name) for name in NAMES]
    for page in ("README.md", "docs/using.md"):
        text = (ROOT / page).read_text()
        for name in NAMES:
            assert f"notebooks/{name}.ipynb" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_outputs_are_those_of_the_source(name):
    notebook = runner.read(path(name))
    assert runner.faults(notebook) == []
    for cell in notebook.cells:
        changed = copy.deepcopy(notebook)
        changed.cells[notebook.cells.index(cell)].source += " "
        assert runner.faults(changed) == ["the outputs are of other sources"]
    notebook.cells.append(notebook.cells.pop(0))
    assert runner.faults(notebook) == ["the outputs are of other sources"]


@pytest.fixture
def small():
    """A notebook without a fault, of a text, the parameters and a picture."""
    cells = [
        nbformat.v4.new_markdown_cell("# A"),
        nbformat.v4.new_code_cell("x = 0\npretrain_steps = 300\nsteps = 24\nsteps_more = 1"),
        nbformat.v4.new_code_cell("plot()"),
    ]
    cells[1].metadata["tags"] = ["parameters"]
    cells[2].metadata["tags"] = ["picture"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    answer(notebook)
    runner.tidy(notebook)
    assert runner.faults(notebook) == []
    return notebook


def answer(notebook, folder=None):
    """What a run leaves in it."""
    for count, cell in enumerate(notebook.cells[1:], 1):
        cell.execution_count = count
        cell.metadata["execution"] = {"iopub.execute_input": "2020-01-01"}
    text = "1.0 nats/token, in ../runs/a/b, 3/4, https://a.org/b/c, <b>a</b>/b"
    printed = nbformat.v4.new_output("stream", name="stdout", text=text)
    picture = nbformat.v4.new_output("display_data", {"image/png": "/9j/4AAQ", "text/plain": "F"})
    notebook.cells[1].outputs, notebook.cells[2].outputs = [printed], [picture]


def printing(text, name="stdout"):
    def change(notebook):
        notebook.cells[1].outputs = [nbformat.v4.new_output("stream", name=name, text=text)]

    return change


def unlike_its_count(notebook):
    notebook.cells[2].execution_count = 3


def not_run(notebook):
    notebook.cells[2].execution_count = None


def raising(notebook):
    notebook.cells[1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="e")]


def without_its_picture(notebook):
    del notebook.cells[2].outputs[0]["data"]["image/png"]


def without_a_digest(notebook):
    del notebook.metadata[runner.DIGEST]


def tagged_otherwise(notebook):
    notebook.cells[1].metadata["tags"] = []


def of_another_kind(notebook):
    notebook.cells[0] = nbformat.v4.new_raw_cell("# A")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (unlike_its_count, "the code cells did not run once each, in order"),
        (not_run, "the code cells did not run once each, in order"),
        (raising, "code cell 1 ends in an error"),
        (without_its_picture, "code cell 2 draws no picture"),
        (without_a_digest, "the outputs are of other sources"),
        (tagged_otherwise, "the outputs are of other sources"),
        (of_another_kind, "the outputs are of other sources"),
        (printing("W", "stderr"), "code cell 1 wrote to the standard error"),
        (printing("in /home/me"), "code cell 1 prints the path '/home/me' of a machine"),
        (printing("'/tmp/x-1'"), "code cell 1 prints the path '/tmp/x-1' of a machine"),
        (printing(r"C:\Users"), r"code cell 1 prints the path 'C:\\U' of a machine"),
        (printing("a" * 400_000), "it is larger than 400,000 bytes"),
    ],
)
def test_each_fault_is_found(small, change, fault):
    change(small)
    assert runner.faults(small) == [fault]


def test_a_notebook_without_a_picture_is_a_fault(small):
    small.cells.pop()
    runner.tidy(small)
    assert runner.faults(small) == ["no cell is tagged 'picture'"]


def test_what_changes_from_run_to_run_is_left_out(small):
    again = copy.deepcopy(small)
    for cell in again.cells:
        cell.id = f"other-{cell.id}"
    again.metadata["language_info"] = {"name": "python", "version": "3.99"}
    answer(again)
    assert nbformat.writes(again) != nbformat.writes(small)
    runner.tidy(again)
    assert nbformat.writes(again) == nbformat.writes(small)


def test_only_the_steps_of_the_parameters_are_shortened(small):
    runner.shorten(small, 4)
    assert small.cells[1].source == "x = 0\npretrain_steps = 4\nsteps = 4\nsteps_more = 1"
    small.cells[1].metadata["tags"] = []
    with pytest.raises(ValueError, match="no cell tagged 'parameters' has a line 'steps = N'"):
        runner.shorten(small, 4)


def test_a_notebook_with_a_fault_is_not_written(small, tmp_path, monkeypatch, capsys):
    file = tmp_path / "small.ipynb"
    small.cells[0].source = "# B"
    nbformat.write(small, file)
    before = file.read_bytes()

    def run(notebook):
        answer(notebook)
        printing("/home/me")(notebook)

    monkeypatch.setattr(runner, "run", run)
    with pytest.raises(SystemExit, match=r"small\.ipynb is left as it was: code cell 1 prints"):
        runner.main([str(file)])
    assert file.read_bytes() == before
    monkeypatch.setattr(runner, "run", answer)
    runner.main([str(file)])
    assert capsys.readouterr().out.startswith("small.ipynb: 3 cells")
    assert runner.faults(runner.read(file)) == []


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_runs(name, tmp_path):
    """With 2 steps; beside a link to the examples, so that no run of the user's is touched."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    notebook = runner.read(path(name))
    runner.shorten(notebook, 2)
    # Real weights need code that is optimised; the third compiles many programs of few steps.
    flags = {} if name == "03_any_linen_model" else {"XLA_FLAGS": ""}
    runner.run(notebook, folder, {**os.environ, **flags})
    runner.tidy(notebook)
    assert runner.faults(notebook) == []
