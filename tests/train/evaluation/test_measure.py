import pytest

from tera_jax import locks
from train.config import EvaluateConfig
from train.evaluation import answers, measure
from train.evaluation.measure import HELD_OUT, Score


def test_dialogues_need_a_dictionary_and_an_encoder(tmp_path):
    config = EvaluateConfig(wordnet=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="none"):
        answers.require(["boolq", "convai2"], config)
    answers.require(["boolq", "SVAMP"], config)


def test_one_process_writes_an_evaluation(finished, tmp_path):
    """The other is refused before it reads a run; the lock goes with its holder."""
    run, directory = finished[0], tmp_path / "new" / "evaluation"
    with locks.held(directory):
        with pytest.raises(FileExistsError, match=r"another process writes to .*evaluation; wait"):
            measure.measure(run, 0, None, directory, (), {})
        assert not [*directory.iterdir()]
    assert measure.measure(run, 0, None, directory, (), {}) == {}


def test_the_table_stands_side_by_side():
    columns = {
        "before": {
            HELD_OUT: Score({"loss": 2.5}, 16),
            "boolq": Score({"accuracy": 0.0, "parsed": 0.25}, 4),
        },
        "after": {
            HELD_OUT: Score({"loss": 0.25}, 16),
            "boolq": Score({"accuracy": 0.75, "parsed": 1.0}, 4),
        },
    }
    head, rule, loss, right, parsed = measure.table(columns).splitlines()
    assert head.split() == ["before", "after"]
    assert rule == "-" * len(head)
    assert loss.split()[-2:] == ["2.5000", "0.2500"]
    assert right.split()[-4:] == ["0/4", "(0.0%)", "3/4", "(75.0%)"]
    assert parsed.split()[-4:] == ["1/4", "(25.0%)", "4/4", "(100.0%)"]
    assert len({len(line) for line in (head, loss, right, parsed)}) == 1
    texts = {"convai2": Score({"bleu": 0.0312}, 9)}
    assert "3.12%" in measure.table({"step 3": texts})
