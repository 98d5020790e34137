import json

import jax
import pytest

from train import data, evaluate
from train import run as runs
from train.evaluate import Score


def call(workdir, *more):
    evaluate.main([f"--workdir={workdir}", *more])


def test_a_run_is_evaluated_by_one_command(finished, tmp_path, capsys):
    _, workdir = finished
    call(workdir, f"--output={tmp_path / 'e'}", "--rows=5")
    summary = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    answers = [
        json.loads(line) for line in (tmp_path / "e" / "answers.jsonl").read_text().splitlines()
    ]
    assert len(answers) == summary["answers"] == 5
    assert summary["right"] == sum(answer["right"] for answer in answers)
    assert summary["parsed"] == sum(answer["answer"] is not None for answer in answers)
    best = json.loads(
        [line for line in (workdir / "metrics.jsonl").read_text().splitlines() if "held" in line][
            -1
        ]
    )
    assert summary["step"] == best["step"] == 12
    assert summary["held_out_loss"] == pytest.approx(best["held_out_loss"], rel=1e-6)
    assert f"{summary['held_out_loss']:.4f}" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="not empty"):
        call(workdir, f"--output={tmp_path / 'e'}")


def test_answers_are_those_of_uncached_greedy_decoding(finished):
    """Token by token through the whole adapted model, one question at a time."""
    run, workdir = finished
    _, d = runs.trained(run, workdir)
    questions = evaluate.load_questions(run.config.evaluate.path, 3)
    found = list(evaluate.generate_answers(run, d, questions))
    prompts = data.encode_prompts(questions, run.tokenizer, run.config.data, bos=False)

    @jax.jit
    def next_token(tokens_BL, length):
        logits_BLV, _ = run.adapter.apply(run.model, run.variables(d), tokens_BL)
        return logits_BLV[0, length - 1].argmax()

    for prompt, answer in zip(prompts, found, strict=True):
        tokens = list(prompt)
        for _ in range(run.config.evaluate.max_new_tokens):
            row = [*tokens, *[0] * (64 - len(tokens))]
            tokens.append(int(next_token(jax.numpy.asarray([row]), len(tokens))))
            if tokens[-1] == run.tokenizer.eos_token_id:
                break
        assert answer.output == evaluate._text(tokens[len(prompt) :], run.tokenizer)


def test_questions_need_an_answer_of_the_format(tmp_path):
    def write(answer):
        record = {"instruction": "a", "output": "b", "answer": answer}
        path = tmp_path / f"{answer}.json"
        path.write_text(json.dumps([record]))
        return str(path)

    assert evaluate.load_questions(None, None) == []
    assert len(evaluate.load_questions(write("true"), None)) == 1
    with pytest.raises(ValueError, match=r"record 0 of .* has no text in field 'answer'"):
        evaluate.load_questions(write(None), None)
    with pytest.raises(ValueError, match=r"record 0 of .*'maybe' is none of the commonsense"):
        evaluate.load_questions(write("maybe"), None)


def test_the_table_stands_side_by_side():
    text = evaluate.table({"before": Score(2.5, 4, 1, 0), "after": Score(0.25, 4, 4, 3)})
    head, rule, loss, parsed, right = text.splitlines()
    assert head.split() == ["before", "after"]
    assert rule == "-" * len(head)
    assert loss.split()[-2:] == ["2.5000", "0.2500"]
    assert parsed.split()[-4:] == ["1/4", "(25.0%)", "4/4", "(100.0%)"]
    assert right.split()[-4:] == ["0/4", "(0.0%)", "3/4", "(75.0%)"]
    assert len({len(line) for line in text.splitlines()}) == 1
    assert "answers" not in evaluate.table({"before": Score(2.5, 0, 0, 0)})
