"""The command from runs to pictures, and pictures from their tables."""

import json
import re

import pytest

from tests.train.analysis import drawn_runs
from tests.train.analysis.made_up import analysed
from train import analyze, pictures
from train.analysis import figures, loss_rows, table
from train.analysis.drawing import bars, style

RUNS = (
    ("lora", 0, 2.5, {"rank": 4}),
    ("tera", 0, 2.0, {}),
    ("tera", 1, 2.2, {}),
    ("tera", 0, 2.4, {"init": "identity"}),
)


def picture(rows, directory):
    with style.settings():
        files = pictures.save(bars.by_value(rows), directory, "a")
    return [file.read_bytes() for file in files]


def test_a_picture_is_the_same_bytes_twice_and_follows_its_table(tmp_path):
    table.write(tmp_path / "a.csv", loss_rows.by_init(analysed(*RUNS)))
    rows = table.read(tmp_path / "a.csv")
    first, second = picture(rows, tmp_path), picture(rows, tmp_path)
    assert first == second
    rows[0]["nll"] += 0.1
    assert all(new != old for new, old in zip(picture(rows, tmp_path), first, strict=True))


@pytest.mark.long
def test_every_figure_is_drawn_from_its_table(tmp_path):
    schemes = [("tera", 0, 2.3, {"num_modes": 2}), ("tera", 0, 2.6, {"targets": ("v_proj",)})]
    runs = analysed(*RUNS, *schemes, ("tera", 0, 2.7, {"sharing": "none"}))
    runs[0] = runs[0]._replace(elsewhere={"own": (2.0, 2.5)})
    drawn, left_out = figures.write(runs, tmp_path)
    assert [each.name for each in drawn] == [f"{each.name}-records" for each in figures.FIGURES]
    assert not left_out
    for each in drawn:
        for kind in ("csv", "png", "svg"):
            assert (tmp_path / f"{each.name}.{kind}").stat().st_size > 50


@pytest.mark.long
def test_two_calls_give_the_same_bytes_in_any_order_of_runs(
    tiny_llama, tmp_path, capsys, monkeypatch
):
    few = [each for each in figures.FIGURES if each.name in ("figure1", "table6", "forgetting")]
    monkeypatch.setattr(figures, "FIGURES", few)
    base, paths = None, []
    for number, (method, seed, loss, fields) in enumerate(RUNS[:3]):
        path = tmp_path / f"run-{number}"
        config = drawn_runs.config_of(tiny_llama, method, seed, **fields)
        base = drawn_runs.write(path, config, loss, base)
        paths.append(str(path))
    drawn_runs.evaluated(tmp_path / "run-1", "own", 3.0, 3.25)
    for name, given in (("a", paths), ("b", paths[::-1])):
        analyze.main([*given, f"--output={tmp_path / name}"])
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "ab"
    )
    assert first == second
    told = capsys.readouterr()
    assert told.err.count("left out: table6 of records: needs TeRA runs") == 2
    assert "runs: 3, page: " in told.out

    numbers = json.loads(first["analysis.json"])
    assert [run["nll"] for run in numbers["runs"]] == [2.5, 2.0, 2.2]
    for run in numbers["runs"]:
        assert [each["layer"] for each in run["kernels"]] == [0, 1, 0, 1]
        for each in run["kernels"]:
            full = min(each["shape"])
            expected = 4 if run["method"] == "lora" else full
            assert each["rank_float64"] == each["rank_float32"] == expected
            assert 0 < each["drift"] < 10
            assert len(each["intruders"]) == len(numbers["intruder_epsilons"])
    counts = {
        row["label"]: row["trained"] for row in table.read(tmp_path / "a/figure1-records.csv")
    }
    assert counts == {run["label"]: run["trained"] for run in numbers["runs"]}

    page = first["index.html"].decode()
    assert not re.findall(r'(?:src|href)="(?!data:|[\w.-]+\.(?:csv|png|svg)")', page)
    assert page.count("data:image/svg+xml;base64,") == len(numbers["figures"])
