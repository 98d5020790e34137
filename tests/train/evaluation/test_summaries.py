import json

import pytest

from tests.train.evaluation.summary_files import write
from train.evaluation import summaries


def test_two_runs_of_one_seed_are_named(tmp_path):
    runs = [write(tmp_path / name, "boolq", 0.5) for name in ("a", "b")]
    message = r"a/evaluation/boolq/summary.json and .*b/evaluation/boolq/.* both of model 'llama-2"
    with pytest.raises(ValueError, match=message):
        summaries.read(runs)
    with pytest.raises(ValueError, match="seed 0 and task 'boolq'; leave one out"):
        summaries.read([runs[0], runs[0]])


@pytest.mark.parametrize("key", [*summaries.Summary._fields[1:], "accuracy"])
def test_a_missing_key_is_named(tmp_path, key):
    run = write(tmp_path / "a", "boolq", 0.5)
    path = run / "evaluation" / "boolq" / "summary.json"
    tree = json.loads(path.read_text())
    del (tree["metrics"] if key == "accuracy" else tree)[key]
    path.write_text(json.dumps(tree))
    named = r"metrics\.accuracy" if key == "accuracy" else key
    message = f"a/evaluation/boolq/summary.json lacks {named}, .*; run python -m train.eval"
    with pytest.raises(ValueError, match=message):
        summaries.read([run])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not JSON .its top level is no object"),
        ('{"task": 3}', "sets task to 3, not a text"),
        ('{"task": "boolq", "metrics": {"accuracy": NaN}}', "NaN is not a number of JSON"),
        ('{"task": "boolq", "metrics": {"accuracy": "a"}}', "sets metrics to .*, not an object"),
    ],
)
def test_a_broken_summary_is_named(tmp_path, text, message):
    run = write(tmp_path / "a", "boolq", 0.5)
    (run / "evaluation" / "boolq" / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=rf"boolq/summary.json .*{message}"):
        summaries.read([run])
