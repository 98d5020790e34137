"""What is measured of a trained method: the loss of responses, and which texts it finds likely."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from train import data
from train.config import DataConfig
from train.data import Examples
from train.evaluation import likelihood
from train.evaluation.likelihood import Choice, Question
from train.studies.jobs.trainer import Trained, Trainer
from train.studies.parts import Parts

from .drawn import Drawn

ROWS = 512
"""Choices scored at once: of few shapes, each of which is compiled once in a process."""


class Scores(NamedTuple):
    """Of each sub-task.

    Attributes:
        nll: of the responses, "the correct answer is ...", in nats a token.
        accuracy: share of questions whose right text has the greatest log-likelihood.
        by_length: the same, of the log-likelihood a character.
        text_nll: of the right texts, in nats a token.
    """

    nll: dict[str, float]
    accuracy: dict[str, float]
    by_length: dict[str, float]
    text_nll: dict[str, float]


class Tests(NamedTuple):
    """The test records of each sub-task as tokens: with their responses, and as questions."""

    examples: Mapping[str, Examples]
    questions: Mapping[str, Sequence[Question]]


def prepare(drawn: Drawn, tokenizer: Any, config: DataConfig, limit: int) -> tuple[Parts, Tests]:
    """Records as tokens.

    Args:
        drawn: the records.
        tokenizer: of the base.
        config: of the data.
        limit: the model's greatest length.

    Returns:
        the parts of a study's task, the last of which is all test records; and these apart.

    Raises:
        ValueError: when no record has a token for the loss.
    """
    examples = {}
    for task, records in drawn.tests.items():
        examples[task] = data.tokenize(records, tokenizer, config)
        data.require_targets(examples[task], config, task)
    everything = [record for records in drawn.tests.values() for record in records]
    parts = (drawn.train, drawn.validation, everything)
    asked = {
        task: likelihood.text_questions(records, tokenizer, limit)
        for task, records in drawn.tests.items()
    }
    made = Parts(*(data.tokenize(part, tokenizer, config) for part in parts))
    return made, Tests(examples, asked)


def measure(trainer: Trainer, trained: Trained, tests: Tests, rows: int = ROWS) -> Scores:
    """The scores of a trained method, or of one before its first step.

    Args:
        trainer: that trained it.
        trained: the end of a run.
        tests: what to measure on.
        rows: choices scored at once, at most.
    """
    nll = {task: trainer.loss(trained, examples) for task, examples in tests.examples.items()}
    every = [question for questions in tests.questions.values() for question in questions]
    rows = min(rows, sum(len(question.choices) for question in every))
    found = iter(likelihood.choose(trained.run, trained.d, every, rows))
    accuracy, by_length, text_nll = {}, {}, {}
    for task, questions in tests.questions.items():
        scored = [*_pairs(questions, found)]
        accuracy[task] = statistics.fmean(one.by_sum == asked.gold for asked, one in scored)
        by_length[task] = statistics.fmean(one.by_length == asked.gold for asked, one in scored)
        logprob = math.fsum(one.logprobs[asked.gold] for asked, one in scored)
        tokens = sum(len(asked.choices[asked.gold]) for asked, _ in scored)
        text_nll[task] = _finite(-logprob / tokens)
    return Scores(nll, accuracy, by_length, text_nll)


def _pairs(
    questions: Sequence[Question], found: Iterator[Choice]
) -> Iterator[tuple[Question, Choice]]:
    for question in questions:
        yield question, next(found)


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
