import json

import pytest

from train.params import count
from train.params.paper import PRINTED


def test_every_printed_digit_of_the_paper_is_met_but_for_the_known_exception(capsys):
    count.main(["--paper"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "70 of 71 met, 1 known exception"
    assert sum("known exception: twice the rounded 0.0020" in line for line in lines) == 1
    assert not any(line.endswith("NOT") for line in lines)
    assert {row.table for row in PRINTED} == {2, 3, 4, 6, 7, 10}


def test_a_wrong_digit_is_seen(monkeypatch):
    row = PRINTED[-1]
    monkeypatch.setattr(count, "PRINTED", (row, row._replace(percent="0.0034")))
    assert [check.met for check in count.check_paper()] == [True, False]


def test_tera_on_llama_2_7b(capsys):
    count.main(["--model=llama-2-7b", "--method=tera", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["trained"] == 264_192
    assert found["base"] == 6_738_415_616
    assert found["bytes_float32"] == 4 * 264_192
    assert set(found["max_rank"].values()) == {4096}


def test_settings_and_targets_are_taken(capsys):
    argv = ["--model=llama-3-8b", "--method=lora", "--targets", "*_proj", "--set", "rank=2"]
    count.main(argv)
    text = capsys.readouterr().out
    per_layer = 2 * ((4096 + 4096) * 2 + (4096 + 1024) * 2 + (4096 + 14336) * 3)
    assert f"{32 * per_layer:,}" in text
    assert "layers/mlp/up_proj" in text
    assert "at most 2" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model=llama-9"], "model 'llama-9'; choose one of"),
        (["--method=nora"], "method 'nora'; choose one of"),
        (
            ["--method=lora", "--set", "rnk=2"],
            "unknown config key method.rnk; did you mean method.rank",
        ),
        (["--method=lora", "--set", "rank=0"], "rank 0"),
        (["--method=lora", "--set", "rank=5000"], "rank 5000"),
        (["--targets", "x_proj"], "target 'x_proj' names no linear layer"),
    ],
)
def test_bad_input_is_refused_by_name(argv, message):
    with pytest.raises(ValueError, match=message):
        count.main(argv)
