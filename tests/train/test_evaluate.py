import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tera_jax.llama import GenerationConfig
from train import data, evaluate
from train.data import records
from train.evaluation import answers, measure, questions, text_metrics
from train.evaluation.generation import Generator
from train.evaluation.measure import HELD_OUT, Score
from train.training import run as runs


def call(workdir, *more):
    evaluate.main([f"--workdir={workdir}", *more])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_evaluated_by_one_command(finished, tmp_path, capsys):
    _, workdir = finished
    call(workdir, f"--output={tmp_path / 'e'}", "--limit=5")
    task = tmp_path / "e" / "commonsense"
    summary = json.loads((task / "summary.json").read_text())
    found = lines(task / "answers.jsonl")
    assert len(found) == summary["examples"] == 5
    assert [answer["row"] for answer in found] == [0, 1, 2, 3, 4]
    assert summary["metrics"] == {
        "accuracy": sum(answer["right"] for answer in found) / 5,
        "parsed": sum(answer["answer"] is not None for answer in found) / 5,
    }
    assert summary["method"] == "tera"
    assert summary["model"] == "tiny"
    loss = json.loads((tmp_path / "e" / HELD_OUT / "loss.json").read_text())
    best = [row for row in lines(workdir / "metrics.jsonl") if "held_out_loss" in row][-1]
    assert summary["step"] == loss["step"] == best["step"] == 12
    assert loss["held_out_loss"] == pytest.approx(best["held_out_loss"], rel=1e-6)
    assert f"{loss['held_out_loss']:.4f}" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match=r"other settings: settings\.questions: "):
        call(workdir, f"--output={tmp_path / 'e'}", "--limit=4")


def test_an_evaluation_that_was_killed_goes_on(finished, tmp_path, monkeypatch):
    """After a line and a half: what is there is not asked again, and the result is the same."""
    _, workdir = finished
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    call(workdir, f"--output={whole}")
    shutil.copytree(whole, killed)
    kept = killed / "commonsense"
    (kept / "summary.json").unlink()
    first, second, *_ = (kept / "answers.jsonl").read_text().splitlines(keepends=True)
    (kept / "answers.jsonl").write_text(second + first[: len(first) // 2])
    asked = []

    class Counting(Generator):
        def __call__(self, prompts, rows=None, progress=False):
            asked.extend(rows)
            return super().__call__(prompts, rows, progress)

    monkeypatch.setattr(measure, "Generator", Counting)
    call(workdir, f"--output={killed}")
    assert asked == [0, 2, 3, 4, 5]
    for name in ("answers.jsonl", "summary.json"):
        expected = (whole / "commonsense" / name).read_text()
        assert (kept / name).read_text() == expected
    asked.clear()
    call(workdir, f"--output={killed}")
    assert asked == []


def test_the_base_is_evaluated_under_the_runs_settings(finished, tmp_path):
    _, workdir = finished
    call(workdir, f"--output={tmp_path / 'b'}", "--base", "--limit=5")
    loss = json.loads((tmp_path / "b" / HELD_OUT / "loss.json").read_text())
    call(workdir, f"--output={tmp_path / 'e'}", "--limit=5")
    tuned = json.loads((tmp_path / "e" / HELD_OUT / "loss.json").read_text())
    assert loss["step"] == 0
    assert loss["held_out_loss"] > tuned["held_out_loss"]


def test_the_held_out_loss_is_kept_under_all_that_determines_it(finished, tmp_path, monkeypatch):
    """Step, d, base, frozen arrays, held-out records and fields of the data: each takes it anew."""
    run, workdir = finished
    step, d = runs.restore_best(run, workdir)
    _, held_out = records.split(run.config.data)
    valid = data.tokenize(held_out, run.tokenizer, run.config.data)
    taken = []

    def loss(run, _, d, examples):
        taken.append(len(examples))
        return 1.5

    monkeypatch.setattr(measure, "held_out_loss", loss)

    def after(run=run, step=step, d=d, valid=valid):
        """How often it is taken, when it was taken as it is before."""
        for given in ((finished[0], *runs.restore_best(*finished), data_), (run, step, d, valid)):
            taken.clear()
            with jax.set_mesh(run.mesh):
                scores = measure.measure(*given[:3], tmp_path / "e", given[3], {})
            assert scores[HELD_OUT] == Score({"loss": 1.5}, len(given[3]))
        return len(taken)

    data_ = valid
    assert after() == 0
    assert after(step=11) == 1
    assert after(d=jax.tree.map(lambda leaf: leaf * 2, d)) == 1
    assert after(valid=valid[:-1]) == 1
    other = [valid[0]._replace(ids=[*valid[0].ids[:-1], 5]), *valid[1:]]
    assert after(valid=other) == 1
    assert after(run=run._replace(meta=run.meta._replace(base_fingerprint="0" * 16))) == 1
    assert after(run=run._replace(meta=run.meta._replace(frozen_fingerprint="0" * 16))) == 1
    fields = dataclasses.replace(run.config.data, train_on_prompt=True)
    assert after(run=run._replace(config=dataclasses.replace(run.config, data=fields))) == 1
    (tmp_path / "e" / HELD_OUT / "loss.json").write_text('{"step":')
    taken.clear()
    assert after() == 0


@pytest.mark.parametrize("beams", [1, 2])
def test_answers_do_not_depend_on_the_batch(finished, beams):
    run, workdir = finished
    _, d = runs.restore_best(run, workdir)
    asked = questions.load(run.config.evaluate.path, "commonsense", run.config.data, 6)
    ids = answers.prompts(run, asked)
    decoding = GenerationConfig(num_beams=beams, max_new_tokens=6)
    generator = Generator(run, d, decoding)
    together = dict(generator(ids))
    alone = dict(pair for row in range(6) for pair in generator(ids, [row]))
    assert together == alone
    assert sorted(together) == list(range(6))


def test_answers_are_the_same_with_the_layers_unrolled(finished):
    run, workdir = finished
    _, d = runs.restore_best(run, workdir)
    asked = questions.load(run.config.evaluate.path, "commonsense", run.config.data, 6)
    ids = answers.prompts(run, asked)
    decoding = GenerationConfig(num_beams=2, max_new_tokens=6)
    evaluate_ = dataclasses.replace(run.config.evaluate, unroll=True)
    unrolled = run._replace(config=dataclasses.replace(run.config, evaluate=evaluate_))
    assert dict(Generator(unrolled, d, decoding)(ids)) == dict(Generator(run, d, decoding)(ids))
    assert not run.params["norm"]["scale"].is_deleted()
    assert not run.params["layers"]["mlp"]["up_proj"]["kernel"].is_deleted()


def test_answers_are_those_of_uncached_greedy_decoding(finished):
    """Token by token through the whole adapted model, one question at a time."""
    run, workdir = finished
    _, d = runs.restore_best(run, workdir)
    asked = questions.load(run.config.evaluate.path, "commonsense", run.config.data, 3)
    ids = answers.prompts(run, asked)
    found = answers.ask(run, Generator(run, d), asked, ids, "commonsense")
    prompts = data.encode_prompts([q.record for q in asked], run.tokenizer, run.config.data)

    @jax.jit
    def next_token(tokens_BL, length):
        logits_BLV, _ = run.adapter.apply(run.model, run.variables(d), tokens_BL)
        return logits_BLV[0, length - 1].argmax()

    count = run.config.decoding.max_new_tokens
    for answer, prompt in zip(found, prompts, strict=True):
        tokens = [*prompt]
        for _ in range(count):
            padded = tokens + [0] * (len(prompt) + count - len(tokens))
            tokens.append(int(next_token(jax.numpy.asarray([padded]), len(tokens))))
            if tokens[-1] == run.tokenizer.eos_token_id:
                break
        new = tokens[len(prompt) :]
        assert answer.output == run.tokenizer.decode(new, skip_special_tokens=True)


def test_sampled_answers_follow_from_the_seed(finished):
    run, workdir = finished
    _, d = runs.restore_best(run, workdir)
    asked = questions.load(run.config.evaluate.path, "commonsense", run.config.data, 6)
    ids = answers.prompts(run, asked)
    decoding = GenerationConfig(do_sample=True, max_new_tokens=6)
    first, again, other = (dict(Generator(run, d, decoding, seed)(ids)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_prompt_beyond_the_context_is_refused_before_any_work(finished):
    run, workdir = finished
    _, d = runs.restore_best(run, workdir)
    with pytest.raises(ValueError, match=r"prompt 1 has 250 tokens, and with 8 new ones .* of 256"):
        next(Generator(run, d)([[3] * 5, [3] * 250]))


def test_the_likeliest_choices_are_scored(finished, tmp_path):
    _, workdir = finished
    rows = [
        {
            "instruction": "Please answer the following question with true or false, "
            f"question: {q}?\n\nAnswer format: true/false",
            "output": f"the correct answer is {a}",
            "answer": a,
        }
        for q, a in (("is a cat red", "true"), ("is the sun a sea", "false"))
    ]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    for score in ("labels", "texts"):
        tasks = ["--tasks", f"boolq={tmp_path / 'q.json'}"]
        call(workdir, *tasks, f"--score={score}", f"--output={tmp_path / 'e'}")
        summary = json.loads((tmp_path / "e" / f"boolq-{score}" / "summary.json").read_text())
        assert summary["examples"] == 2
        picks = lines(tmp_path / "e" / f"boolq-{score}" / "answers.jsonl")
        assert [pick["gold"] for pick in picks] == [0, 1]
        assert [pick["right"] for pick in picks] == [p["answer"] == p["gold"] for p in picks]
        assert all(pick["answer"] == np.argmax(pick["logprobs"]) for pick in picks)
        assert summary["metrics"].keys() == {"accuracy", "accuracy_by_length"}
        assert summary["metrics"]["accuracy"] == sum(pick["right"] for pick in picks) / 2


DIALOGUES = """\
1 your persona: i have a red cat.
2 hi !\thello .
3 a pet ?\ti have a red cat .
"""


def test_dialogues_are_scored_by_six_metrics(finished, tmp_path, monkeypatch):
    """The metrics themselves are held to their libraries in test_text_metrics.py."""
    run, workdir = finished
    (tmp_path / "d.txt").write_text(DIALOGUES)
    config = dataclasses.replace(run.config.data, prompt="convai2")
    asked = questions.load(str(tmp_path / "d.txt"), "convai2", config)
    talking = run._replace(config=dataclasses.replace(run.config, data=config))
    _, d = runs.restore_best(run, workdir)
    given = {}

    def score(outputs, references, *, wordnet, encoder):
        given.update(outputs=outputs, references=references, wordnet=wordnet, encoder=encoder)
        return text_metrics.Metrics(*(0.1 * place for place in range(6)))

    monkeypatch.setattr(text_metrics, "score", score)
    scores = measure.measure(talking, 12, d, tmp_path / "e", [], {"convai2": asked})
    assert given["references"] == [["hello ."], ["i have a red cat ."]]
    found = lines(tmp_path / "e" / "convai2" / "answers.jsonl")
    assert given["outputs"] == [answer["answer"] for answer in found]
    assert found[1]["prompt"].endswith("Q: hi ! R: hello . Q: a pet ? TARGET:")
    assert scores["convai2"].metrics["average"] == pytest.approx(0.25)
    assert set(scores["convai2"].metrics) == {*text_metrics.Metrics._fields, "average"}


def test_bad_calls_are_refused_before_the_model_is_loaded(finished, tmp_path, monkeypatch):
    _, workdir = finished
    monkeypatch.setattr(runs, "build", lambda *_: pytest.fail("built"))
    with pytest.raises(ValueError, match="unknown task 'boolk'; did you mean 'boolq'"):
        call(workdir, "--tasks", "boolk")
    with pytest.raises(FileNotFoundError, match=r"task boolq: .*boolq/test\.json does not exist"):
        call(workdir, "--tasks", "boolq", f"--data={tmp_path}")
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(ValueError, match=r"empty\.json holds no list of JSON records"):
        call(workdir, "--tasks", f"boolq={tmp_path / 'empty.json'}")


def test_a_directory_with_other_files_is_left_alone(finished, tmp_path):
    _, workdir = finished
    (tmp_path / "commonsense").mkdir()
    (tmp_path / "commonsense" / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match="is there and not empty; name another directory"):
        call(workdir, f"--output={tmp_path}")
