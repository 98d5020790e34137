import csv
import re

import pytest

from tests.train.evaluation.summary_files import write, write_paper
from train import report
from train.evaluation import significance, summaries


@pytest.fixture
def paper(tmp_path):
    return write_paper(tmp_path)


def test_the_layout_is_the_papers(paper, capsys):
    report.main([str(run) for run in paper])
    lines = capsys.readouterr().out.splitlines()
    head = lines.index("## Commonsense reasoning (accuracy, %)") + 2
    assert lines[head : head + 3] == [
        "| Model | Method | Params (%) | BoolQ | PIQA | SIQA | ARC-c | ARC-e | OBQA | HellaS "
        "| WinoG | Average |",
        f"| --- | --- |{' ---: |' * 10}",
        "| llama-2-7b | tera | 0.0039 | 65.78 | 81.23 | 78.92 | 69.45 | 84.05 | 81.00 | 85.94 "
        "| 82.64 | 78.63 |",
    ]
    # The rows of a model stand together.
    assert [line.split(" | ")[1] for line in lines[head + 2 : head + 6]] == ["tera", "hira"] * 2
    head = lines.index("## ConvAI2 (%)") + 2
    assert lines[head] == (
        "| Model | Method | Params (%) | BLEU | BERT F1 | BERT-R | BERT-P | Meteor | R-L "
        "| Average |"
    )
    assert lines[head + 2] == (
        "| llama-2-7b | tera | 0.0039 | 2.62 | 85.28 | 85.40 | 85.19 | 14.26 | 13.39 | 47.69 |"
    )
    head = lines.index("## Arithmetic reasoning (accuracy, %)") + 2
    assert lines[head] == "| Model | Method | Params (%) | AQuA | SVAMP |"
    assert lines[head + 4] == "| llama-3-8b | tera | 0.0039 | 30.71 | 73.10 |"


def test_the_wilcoxon_test_gives_the_papers_p_value(paper, capsys):
    (found,) = significance.compare(summaries.read(paper))
    assert found[:3] == ("tera", "hira", 32)
    assert f"{found.better:.2e}" == "3.97e-07"
    assert found.two_sided == pytest.approx(2 * found.better)
    report.main([str(run) for run in paper])
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "| First | Second | Pairs | p (two-sided) | p (first is better) |",
        "| --- | --- | ---: | ---: | ---: |",
        "| tera | hira | 32 | 7.95e-07 | 3.97e-07 |",
    ]


def test_the_report_is_written(paper, tmp_path, capsys):
    output = tmp_path / "new" / "report"
    argv = [*map(str, paper), f"--output={output}"]
    report.main(argv)
    assert (output / "report.md").read_text() == capsys.readouterr().out
    with (output / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (9 + 7 + 2)
    assert rows[0] == {
        "table": "Commonsense reasoning (accuracy, %)",
        "model": "llama-2-7b",
        "method": "tera",
        "trained": "4",
        "percent": "0.0039206",
        "column": "BoolQ",
        "mean": rows[0]["mean"],
        "sd": "",
        "seeds": "1",
    }
    assert float(rows[0]["mean"]) == pytest.approx(65.78)
    with pytest.raises(FileExistsError, match=r"report.md exists; remove it or choose another"):
        report.main(argv)
    (output / "report.md").unlink()
    with pytest.raises(FileExistsError, match=r"report.csv exists"):
        report.main(argv)
    assert not (output / "report.md").exists()


def test_a_run_that_was_not_evaluated_is_named_and_the_others_reported(tmp_path, capsys):
    good = write(tmp_path / "good", "AQuA", 0.5)
    damaged = write(tmp_path / "damaged", "AQuA", 0.25, seed=1)
    (damaged / "evaluation" / "AQuA" / "summary.json").write_text("{")
    (tmp_path / "new" / "evaluation" / "boolq").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("")
    report.main([str(path) for path in sorted(tmp_path.iterdir())])
    printed, said = capsys.readouterr()
    assert "| llama-2-7b | tera | 0.0039 | 50.00 |  |" in printed
    report.main([str(good)])
    assert capsys.readouterr() == (printed, "")
    first, second, third = said.splitlines()
    assert re.search(rf"left out: {damaged}.*is not JSON.* run python -m train.evaluate", first)
    assert re.search(
        rf"left out: run {tmp_path / 'new'} has no evaluation.* run python -m train.evaluate "
        rf"--workdir={tmp_path / 'new'}",
        second,
    )
    assert f"left out: run {tmp_path / 'notes.txt'} has no" in third
    with pytest.raises(SystemExit, match="none of the runs can be reported") as end:
        report.main([str(damaged), str(tmp_path / "new"), f"--output={tmp_path / 'out'}"])
    assert isinstance(end.value.code, str)  # which is printed, with status 1
    assert not (tmp_path / "out").exists()


def test_runs_that_do_not_exist_or_are_the_same_are_refused(tmp_path):
    good = write(tmp_path / "good", "AQuA", 0.5)
    with pytest.raises(FileNotFoundError, match=r"none does not exist; give the directories"):
        report.main([str(good), str(tmp_path / "none")])
    with pytest.raises(ValueError, match=r"are both of model 'llama-2-7b'.*; leave one out"):
        report.main([str(good), str(good)])


def test_an_unknown_baseline_is_named(tmp_path):
    run = write(tmp_path / "a", "boolq", 0.5)
    with pytest.raises(ValueError, match=r"baseline 'vera'; choose one of \['tera'\]"):
        report.main([str(run), "--baseline=vera"])
