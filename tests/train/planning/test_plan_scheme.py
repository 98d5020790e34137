"""The command without data: its errors, its table and its files."""

import csv
import json
import runpy

import pytest

from tests import parts
from train import plan_scheme
from train.config import parse
from train.params.count import count

SMALL = "--model=smollm2-135m"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([SMALL], "are both missing; give one, such as --budget=40000"),
        ([SMALL, "--budget=9", "--budget-bytes=9KB"], "are both given; give one"),
        ([SMALL, "--budget=many"], "--budget=many is no count of trainable parameters"),
        ([SMALL, "--budget=0"], "--budget=0 is no count"),
        ([SMALL, "--budget-bytes=80XB"], "--budget-bytes=80XB is no size; give bytes"),
        ([SMALL, "--budget=40"], r"--budget=40 is below the smallest scheme: .* give --budget=\d+"),
        ([SMALL, "--budget-bytes=80"], r"--budget-bytes=80 is below .* give --budget-bytes=\d+ or"),
        (["--model=gpt-5", "--budget=9"], "model 'gpt-5'; choose one of"),
        ([SMALL, "--budget=9000", "--method=lora"], "--method=lora has no schemes to plan"),
        ([SMALL, "--budget=9000", "--targets=x_proj"], "target 'x_proj' names no linear layer"),
        ([SMALL, "--budget=9000", "--rows=0"], "--rows=0; give at least 1"),
        ([SMALL, "--budget=9000", "--steps=9"], "--steps is of the runs on data; give --data"),
        ([SMALL, "--budget=9000", "--data=a.json"], "--data needs --output=DIR"),
        (
            [SMALL, "--budget=9000", "--data=a.json", "--output=out"],
            "is a name of sizes without weights, and --data needs weights",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        plan_scheme.main(given)
    assert not [*tmp_path.iterdir()]


def test_runs_come_before_ranks_and_an_interruption_ends_in_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("train.planning.probes.run", interrupted)
    monkeypatch.setattr("train.planning.table.row", None)
    (tmp_path / "config.json").write_text(json.dumps(parts.SMALL))
    given = [f"--model={tmp_path}", "--budget=900", "--data=a.json", f"--output={tmp_path / 'o'}"]
    with pytest.raises(SystemExit) as error:
        plan_scheme.main([*given, "--workers=1"])
    assert error.value.code == 130
    assert capsys.readouterr().err == "interrupted: the same command goes on\n"


def test_only_numbers_are_rates():
    given = ["--model=m", "--budget=9000", "--output=out", "--data=a.json", "--rates=climb"]
    args = plan_scheme._parser().parse_args(given)
    with pytest.raises(ValueError, match="--rates climb: give numbers"):
        plan_scheme._study(args, ["tera"])


def test_the_table_has_counts_bytes_and_where_they_come_from(tmp_path, capsys):
    plan_scheme.main(
        [SMALL, "--budget-bytes=120KB", "--rows=3", f"--output={tmp_path}", "--recipe=commonsense"]
    )
    said = capsys.readouterr().out
    with (tmp_path / "plan.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 3
    assert {row["from"] for row in rows} == {"rule"}
    assert {row["loss"] for row in rows} == {"-"}
    for row in rows:
        assert row["scheme"] in said
        assert 4 * int(row["trained"]) < int(row["bytes"]) <= 120_000
        assert float(row["ms"]) > 0
        assert 1 < float(row["stable rank (<= 1024)"]) < int(row["rank bound"])
    tree = runpy.run_path(str(tmp_path / "winner.py"))["get_config"]()
    method = tree.method.to_dict()
    assert method["init"] == "orthogonal"  # which the recipe does not have
    tree.model.path, tree.data.path = "model", "data.json"
    parsed = parse(tree).method
    settings = {name: method[name] for name in ("tensorizations", "init")}
    counted = count("smollm2-135m", parsed.name, settings, parsed.targets)
    assert counted.trained == int(rows[0]["trained"])
