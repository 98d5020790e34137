import csv
import json
from statistics import mean, stdev

import pytest
from scipy.stats import wilcoxon

from train import report
from train.evaluation import summaries
from train.evaluation.text_metrics import Metrics

CHOICES = [
    "boolq",
    "piqa",
    "social_i_qa",
    "ARC-Challenge",
    "ARC-Easy",
    "openbookqa",
    "hellaswag",
    "winogrande",
]
CONVAI2 = ["bleu", "bertscore_f1", "bertscore_recall", "bertscore_precision", "meteor", "rouge_l"]
# Tables 2, 3 and 4: the eight tasks, then BLEU, BERTScore F1/R/P, Meteor, ROUGE-L, AQuA, SVAMP.
PAPER = {
    ("tera", "llama-2-7b"): (
        "65.78 81.23 78.92 69.45 84.05 81.00 85.94 82.64 2.62 85.28 85.40 85.19 14.26 13.39 "
        "24.41 49.70"
    ),
    ("tera", "llama-3-8b"): (
        "70.70 88.08 81.58 80.89 92.00 88.00 94.92 86.27 3.38 85.03 84.53 85.57 15.32 14.59 "
        "30.71 73.10"
    ),
    ("hira", "llama-2-7b"): (
        "65.35 77.97 72.42 62.03 81.48 64.80 79.90 70.01 2.39 84.84 84.93 84.78 13.35 12.60 "
        "18.90 27.40"
    ),
    ("hira", "llama-3-8b"): (
        "68.04 85.75 75.54 76.96 90.32 77.00 89.04 77.43 3.36 84.81 84.40 85.26 15.12 14.19 "
        "27.95 57.70"
    ),
}


def write(run, task, metrics, **fields):
    """A summary as ``train.evaluate`` writes it; a number stands for an accuracy."""
    summary = {
        "task": task,
        "metrics": metrics if isinstance(metrics, dict) else {"accuracy": metrics},
        "examples": 100,
        "method": "tera",
        "model": "llama-2-7b",
        "seed": 0,
        "trained": 264_192,
        "percent": 0.0039206,
        "step": 1000,
        **fields,
    }
    path = run / "evaluation" / task / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(summary))
    return run


def write_all(run, scores, **fields):
    """All eleven tasks, in the order of PAPER's columns."""
    for task, score in zip(CHOICES, scores, strict=False):
        write(run, task, score, **fields)
    write(run, "convai2", dict(zip(CONVAI2, scores[8:14], strict=True)), **fields)
    write(run, "AQuA", scores[14], **fields)
    write(run, "SVAMP", scores[15], **fields)
    return run


@pytest.fixture
def paper(tmp_path):
    runs = []
    for (method, model), printed in PAPER.items():
        scores = [float(number) / 100 for number in printed.split()]
        run = tmp_path / f"{method}-{model}"
        runs.append(write_all(run, scores, method=method, model=model, trained=len(method)))
    return runs


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
    (found,) = report.compare(summaries.read(paper))
    assert found[:3] == ("tera", "hira", 32)
    assert f"{found.better:.2e}" == "3.97e-07"
    assert found.two_sided == pytest.approx(2 * found.better)
    report.main([str(run) for run in paper])
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "| First | Second | Pairs | p (two-sided) | p (first is better) |",
        "| --- | --- | ---: | ---: | ---: |",
        "| tera | hira | 32 | 7.95e-07 | 3.97e-07 |",
    ]


def test_convai2_takes_the_fields_of_the_text_metrics():
    assert {column.metric for column in summaries.LAYOUTS[1].columns} == set(Metrics._fields)


def test_seeds_give_mean_and_sample_deviation(tmp_path):
    first, second, third = [0.61, 0.5], [0.64, 0.6], [0.7, 0.4]
    runs = []
    for seed, (aqua, svamp) in enumerate([first, second, third]):
        run = write(tmp_path / str(seed), "AQuA", aqua, seed=seed)
        runs.append(write(run, "SVAMP", svamp, seed=seed))
    (table,) = report.tables(summaries.read(runs))
    (row,) = table.rows
    # By hand: the mean of 61, 64 and 70 is 65, and sqrt((16 + 1 + 25) / 2) = sqrt(21).
    assert row.cells[0] == pytest.approx((65, 21**0.5, 3))
    assert row.cells[1] == pytest.approx((50, 10, 3))
    assert "| 65.00 ± 4.58 | 50.00 ± 10.00 |" in report.markdown(summaries.read(runs))
    assert "| 62.50 ± 2.12 |" in report.markdown(summaries.read(runs[:2]))


def test_the_average_is_of_each_seed_first(tmp_path):
    values = {0: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 1: [0.2] * 8, 2: [0.9] * 8}
    runs = [tmp_path / str(seed) for seed in values]
    for run, (seed, scores) in zip(runs, values.items(), strict=True):
        for task, score in zip(CHOICES, scores, strict=True):
            write(run, task, score, seed=seed)
    (table,) = report.tables(summaries.read(runs))
    averages = [45, 20, 90]
    assert table.headings[-1] == "Average"
    assert table.rows[0].cells[-1] == pytest.approx((mean(averages), stdev(averages), 3))


def test_a_missing_cell_and_its_average_are_empty(tmp_path):
    for seed in (0, 1):
        for task in CHOICES[:-1]:
            write(tmp_path / str(seed), task, 0.5, seed=seed)
    runs = [tmp_path / "0", tmp_path / "1"]
    line = report.markdown(summaries.read(runs)).splitlines()[4]
    assert line.endswith("| 50.00 ± 0.00 |  |  |")
    # Of one seed it is there, but not all seeds have an average.
    write(tmp_path / "0", CHOICES[-1], 0.6)
    line = report.markdown(summaries.read(runs)).splitlines()[4]
    assert line.endswith("| 50.00 ± 0.00 | 60.00 |  |")
    write(tmp_path / "1", CHOICES[-1], 0.6, seed=1)
    line = report.markdown(summaries.read(runs)).splitlines()[4]
    assert line.endswith("| 60.00 ± 0.00 | 51.25 ± 0.00 |")


def test_a_table_needs_a_run(tmp_path):
    write(tmp_path / "a", "SVAMP", 0.5)
    write(tmp_path / "a", "gsm8k", 0.25)
    text = report.markdown(summaries.read([tmp_path / "a"]))
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "## Arithmetic reasoning (accuracy, %)"
    ]
    assert text.endswith("Evaluated, but in no table: gsm8k.")


def test_tasks_of_one_seed_may_lie_in_several_runs(tmp_path):
    runs = [write(tmp_path / task, task, 0.5) for task in ("AQuA", "SVAMP")]
    (table,) = report.tables(summaries.read(runs))
    (row,) = table.rows
    assert [cell.mean for cell in row.cells] == [50, 50]


def test_counts_of_trained_parameters_are_rows(tmp_path):
    small = write(tmp_path / "small", "AQuA", 0.5, method="hira", trained=1, percent=0.0078)
    large = write(tmp_path / "large", "AQuA", 0.6, method="hira", trained=32, percent=0.2484)
    both = summaries.read([small, large])
    (table,) = report.tables(both)
    assert [(row.method, row.trained, row.cells[0].mean) for row in table.rows] == [
        ("hira", 1, 50),
        ("hira", 32, 60),
    ]
    # And methods of their own, where they meet on a task.
    (found,) = report.compare(both)
    assert found == ("hira (1 trained)", "hira (32 trained)", 1, None, None)


def write_seeds(tmp_path, method, scores):
    return [
        write(tmp_path / f"{method}-{seed}", "AQuA", score, method=method, seed=seed)
        for seed, score in enumerate(scores)
    ]


def test_wilcoxon_pairs_what_both_methods_have(tmp_path):
    ours = [0.51, 0.62, 0.48, 0.7, 0.55, 0.66, 0.58, 0.6, 0.9]
    theirs = [0.5, 0.6, 0.51, 0.66, 0.5, 0.6, 0.51, 0.52]
    runs = [*write_seeds(tmp_path, "tera", ours), *write_seeds(tmp_path, "vera", theirs)]
    write(runs[0], "SVAMP", 0.5, method="tera")
    (found,) = report.compare(summaries.read(runs))
    # In per cent 1, 2, -3, 4, ..., 8: the ranks are the differences, of which those below 0 sum to
    # 3. Of the 2^8 ways of signs, {}, {1}, {2}, {3} and {1, 2} sum to 3 or less.
    assert found == ("tera", "vera", 8, pytest.approx(10 / 256), pytest.approx(5 / 256))
    # Seen from the other side, and through scipy.
    (other,) = report.compare(summaries.read(runs), baseline="tera")
    expected = wilcoxon([-1, -2, 3, -4, -5, -6, -7, -8], alternative="greater").pvalue
    assert other == ("vera", "tera", 8, pytest.approx(10 / 256), pytest.approx(expected))
    assert expected > 0.98


def test_equal_differences_are_ties(tmp_path):
    ours = [0.3, 0.2, 0.7, 0.8, 0.1, 0.6]
    theirs = [0.2, 0.1, 0.6, 0.7, 0.0, 0.7]
    assert len({a - b for a, b in zip(ours, theirs, strict=True)}) > 2
    runs = [*write_seeds(tmp_path, "tera", ours), *write_seeds(tmp_path, "vera", theirs)]
    (found,) = report.compare(summaries.read(runs))
    expected = wilcoxon([1, 1, 1, 1, 1, -1], alternative="greater").pvalue
    assert found.better == pytest.approx(expected)


def test_too_few_pairs_and_equal_scores_have_no_p_value(tmp_path):
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    runs = [*write_seeds(tmp_path, "tera", scores), *write_seeds(tmp_path, "vera", scores)]
    runs += write_seeds(tmp_path, "lora", scores[:5])
    lines = report.markdown(summaries.read(runs)).splitlines()
    assert lines[-3:] == [
        "| tera | vera | 6 | equal | equal |",
        "| tera | lora | 5 | too few pairs | too few pairs |",
        "| vera | lora | 5 | too few pairs | too few pairs |",
    ]
    lines = report.markdown(summaries.read(runs), baseline="vera").splitlines()
    assert [line.split(" | ")[:2] for line in lines[-2:]] == [
        ["| tera", "vera"],
        ["| lora", "vera"],
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


def test_a_run_that_was_not_evaluated_is_named(tmp_path):
    (tmp_path / "a" / "evaluation" / "boolq").mkdir(parents=True)
    for run in (tmp_path / "a", tmp_path / "nowhere"):
        message = f"run {run} has no evaluation.*run python -m train.evaluate --workdir={run}"
        with pytest.raises(FileNotFoundError, match=message):
            report.main([str(run)])


def test_two_runs_of_one_seed_are_named(tmp_path):
    runs = [write(tmp_path / name, "boolq", 0.5) for name in ("a", "b")]
    message = r"a/evaluation/boolq/summary.json and .*b/evaluation/boolq/.* both of model 'llama-2"
    with pytest.raises(ValueError, match=message):
        summaries.read(runs)
    with pytest.raises(ValueError, match="seed 0 and task 'boolq'; leave one out"):
        summaries.read([runs[0], runs[0]])


@pytest.mark.parametrize("key", [*report.Summary._fields[1:], "accuracy"])
def test_a_missing_key_is_named(tmp_path, key):
    run = write(tmp_path / "a", "boolq", 0.5)
    path = run / "evaluation" / "boolq" / "summary.json"
    tree = json.loads(path.read_text())
    del (tree["metrics"] if key == "accuracy" else tree)[key]
    path.write_text(json.dumps(tree))
    named = "metrics.accuracy" if key == "accuracy" else key
    message = f"a/evaluation/boolq/summary.json lacks the key '{named}'; run python -m train.eval"
    with pytest.raises(ValueError, match=message):
        summaries.read([run])


@pytest.mark.parametrize(("text", "message"), [("{", "is no JSON"), ("[]", "lacks the key 'task'")])
def test_a_broken_summary_is_named(tmp_path, text, message):
    run = write(tmp_path / "a", "boolq", 0.5)
    (run / "evaluation" / "boolq" / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=rf"boolq/summary.json {message}"):
        summaries.read([run])


def test_an_unknown_baseline_is_named(tmp_path):
    run = write(tmp_path / "a", "boolq", 0.5)
    with pytest.raises(ValueError, match=r"baseline 'vera'; choose one of \['tera'\]"):
        report.main([str(run), "--baseline=vera"])
