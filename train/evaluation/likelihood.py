r"""Log-likelihoods of given continuations, and the choices that they favour.

Choices are scored as lm-evaluation-harness scores them: the sum over a choice's tokens ("acc"),
and that sum divided by the length of the choice's text ("acc_norm").
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from tera_jax.llama.checkpoint import special_tokens

from .. import data
from ..config import DataConfig
from ..generation.inference_model import inference_model
from ..tasks import choices
from ..training import distributed
from ..training.loop import one_late, to_device
from ..training.run import Run
from ..training.steps.loss import chunk_size, chunks

Pair = tuple[Sequence[int], Sequence[int]]
"""The token ids of a context and of the continuation to score after it."""

_LENGTHS = 32


class Likelihood(NamedTuple):
    """Of one continuation.

    Attributes:
        logprob: the sum over its tokens, in nats.
        tokens: their number.
        greedy: whether each is the most likely one at its place.
    """

    logprob: float
    tokens: int
    greedy: bool


class Question(NamedTuple):
    """A question as token ids.

    Attributes:
        contexts: what stands before each choice.
        choices: the continuations to compare.
        lengths: of each choice's text, in characters.
        gold: index of the right choice.
    """

    contexts: list[list[int]]
    choices: list[list[int]]
    lengths: list[int]
    gold: int


class Choice(NamedTuple):
    """Which choice is the most likely, the first of equals.

    Attributes:
        by_sum: by the log-likelihood: "acc" when it is the right one.
        by_length: by the log-likelihood a character: "acc_norm".
        logprobs: of every choice, in nats.
    """

    by_sum: int
    by_length: int
    logprobs: list[float]


class _Sums(NamedTuple):
    """On the device: for each row the log-likelihood, and whether all its tokens are greedy."""

    logprob_B: Array
    greedy_B: Array


def label_questions(
    records: Sequence[Mapping[str, Any]], tokenizer: data.Tokenizer, config: DataConfig
) -> list[Question]:
    """The answers that the format asks for, after the prompts that answers are generated from.

    Prompt and answer are tokenised apart, as in training. No EOS follows an answer.

    Raises:
        ValueError: for a record that is not of the commonsense format.
    """
    contexts = data.encode_prompts(records, tokenizer, config, inference=True)
    result = []
    for record, context in zip(records, contexts, strict=True):
        answers = choices.labels(record)
        ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
        lengths = [len(answer) for answer in answers]
        result.append(Question([context] * len(ids), ids, lengths, choices.gold(record)))
    return result


def text_questions(
    records: Sequence[Mapping[str, Any]], tokenizer: data.Tokenizer, limit: int
) -> list[Question]:
    """The texts of the choices, in the prompts of :func:`train.tasks.choices.texts`.

    Context and choice are tokenised together and parted where the context ends, as
    lm-evaluation-harness does. Special tokens that the tokenizer puts before a text stand before
    the context; those that it puts after one are left out. The length of a choice is without the
    space before it.

    Args:
        records: in the commonsense format.
        tokenizer: of the model.
        limit: the model's greatest length; longer contexts lose their beginning.

    Raises:
        ValueError: for a record that is not of the commonsense format.
    """
    before, result = special_tokens.ends(tokenizer).before, []
    for record in records:
        pairs = choices.texts(record)
        starts, wholes = (
            tokenizer(texts, add_special_tokens=False)["input_ids"]
            for texts in ([context for context, _ in pairs], ["".join(pair) for pair in pairs])
        )
        ids = [whole[len(start) :] for start, whole in zip(starts, wholes, strict=True)]
        contexts = [
            cut([*before, *start], row, limit) for start, row in zip(starts, ids, strict=True)
        ]
        lengths = [len(text.strip()) for _, text in pairs]
        result.append(Question(contexts, ids, lengths, choices.gold(record)))
    return result


def cut(context: Sequence[int], continuation: Sequence[int], limit: int) -> list[int]:
    """The last tokens of a context, as many as there is room for before the continuation.

    The last token of the continuation takes no room, for the model need not read it. One token of
    the context always stays.
    """
    room = max(1, limit + 1 - len(continuation))
    return [*context[-room:]]


def choose(
    run: Run,
    d: Any,
    questions: Sequence[Question],
    batch_size: int | None = None,
    progress: bool = False,
) -> list[Choice]:
    """The most likely choice of each question.

    The arguments and the errors are those of :func:`score`, whose rows are the choices of all
    questions in order.
    """
    pairs = [
        pair
        for question in questions
        for pair in zip(question.contexts, question.choices, strict=True)
    ]
    found = iter(score(run, d, pairs, batch_size, progress))
    result = []
    for question in questions:
        logprobs = [next(found).logprob for _ in question.choices]
        by_length = np.divide(logprobs, question.lengths)
        result.append(Choice(int(np.argmax(logprobs)), int(np.argmax(by_length)), logprobs))
    return result


def score(
    run: Run,
    d: Any,
    pairs: Sequence[Pair],
    batch_size: int | None = None,
    progress: bool = False,
) -> list[Likelihood]:
    """The log-likelihood of each continuation after its context.

    A method that can be merged is merged first. The virtual tokens of a method are put before
    every context; they do not count towards the model's greatest length.

    Args:
        run: the base and the adapter.
        d: the adapter's trainable arrays.
        pairs: contexts and continuations, none of them empty.
        batch_size: rows at once, by default the run's ``evaluate.batch_size``.
        progress: whether to show a progress bar.

    Returns:
        in the order of ``pairs``.

    Raises:
        ValueError: for an empty context or continuation, a row that the model is too short for,
            or a batch size that the mesh does not divide.
    """
    size = run.config.evaluate.batch_size if batch_size is None else batch_size
    shards = run.config.mesh.data * run.config.mesh.fsdp
    if size < 1 or size % shards:
        raise ValueError(
            f"batch_size {size} must be a positive multiple of {shards} (mesh data x fsdp)"
        )
    limit = run.model.config.max_position_embeddings
    for row, (context, continuation) in enumerate(pairs):
        _check(row, context, continuation, limit)
    rows = [([*run.virtual_tokens, *context], continuation) for context, continuation in pairs]

    result: dict[int, Likelihood] = {}
    with jax.set_mesh(run.mesh), distributed.bar(progress, total=len(rows), unit="row") as bar:
        _, variables, apply = inference_model(run, d)
        for indices, sums in one_late(_dispatch(run, variables, apply, rows, size)):
            for index, logprob, greedy in zip(indices, *jax.device_get(sums), strict=False):
                tokens = len(rows[index][1])
                result[index] = Likelihood(float(logprob), tokens, bool(greedy))
            bar.update(len(indices))
    return [result[row] for row in range(len(rows))]


def _check(row: int, context: Sequence[int], continuation: Sequence[int], limit: int) -> None:
    for name, tokens in (("context", context), ("continuation", continuation)):
        if not len(tokens):
            raise ValueError(
                f"row {row} has an empty {name}; give at least one token, such as BOS or EOS for "
                "a context"
            )
    length = len(context) + len(continuation) - 1
    if length > limit:
        raise ValueError(
            f"row {row} has {length} tokens before its last, but the model reads at most {limit}; "
            "shorten its context"
        )


def _dispatch(
    run: Run, variables: Any, apply: Callable[..., Any], rows: Sequence[Pair], size: int
) -> Iterator[tuple[list[int], _Sums]]:
    """Batches of rows of about one shape, and their sums, which the device is still computing.

    The longest come first: if memory does not suffice, it fails at once.
    """
    shapes = [_shape(*row) for row in rows]
    order = sorted(range(len(rows)), key=shapes.__getitem__, reverse=True)
    for start in range(0, len(order), size):
        indices = order[start : start + size]
        length, targets = (max(axis) for axis in zip(*(shapes[i] for i in indices), strict=True))
        filled = [*indices, *[indices[-1]] * (size - len(indices))]
        batch = to_device(_collate([rows[i] for i in filled], length, targets), run)
        chunk = chunk_size(size, targets, run.model.config.vocab_size)
        yield indices, _sums(variables, batch, apply=apply, chunk=chunk)


def _shape(context: Sequence[int], continuation: Sequence[int]) -> tuple[int, int]:
    """Tokens and targets, rounded up so that few shapes are compiled."""
    length = len(context) + len(continuation) - 1
    return -(-length // _LENGTHS) * _LENGTHS, 1 << (len(continuation) - 1).bit_length()


def _collate(rows: Sequence[Pair], length: int, targets: int) -> data.Batch:
    """Rows padded on the right. The last token of a continuation is a target only."""
    batch = data.Batch(
        tokens_BL=np.zeros((len(rows), length), np.int32),
        target_positions_BT=np.zeros((len(rows), targets), np.int32),
        target_BT=np.zeros((len(rows), targets), np.int32),
        weight_BT=np.zeros((len(rows), targets), np.float32),
    )
    for row, (context, continuation) in enumerate(rows):
        tokens, count = [*context, *continuation[:-1]], len(continuation)
        batch.tokens_BL[row, : len(tokens)] = tokens
        batch.target_positions_BT[row, :count] = np.arange(len(tokens) - count, len(tokens))
        batch.target_BT[row, :count] = continuation
        batch.weight_BT[row, :count] = 1
    return batch


@functools.partial(jax.jit, static_argnames=("apply", "chunk"))
def _sums(variables: Any, batch: data.Batch, *, apply: Callable[..., Any], chunk: int) -> _Sums:
    """Reads the logits at the continuations only, ``chunk`` positions of each row at a time."""
    target_positions_BT = jnp.asarray(batch.target_positions_BT)
    state_BTD, _ = apply(
        variables, batch.tokens_BL, target_positions_BT=target_positions_BT, method="hidden"
    )

    def score_chunk(piece: tuple[Array, Array, Array]) -> _Sums:
        state_BCD, target_BC, weight_BC = piece
        logits_BCV = apply(variables, state_BCD, method="logits")
        nll_BC = optax.softmax_cross_entropy_with_integer_labels(logits_BCV, target_BC)
        hit_BC = (jnp.argmax(logits_BCV, axis=-1) == target_BC) | (weight_BC == 0)
        return _Sums(-jnp.sum(nll_BC * weight_BC, axis=1), jnp.all(hit_BC, axis=1))

    pieces = chunks(chunk, state_BTD, batch.target_BT, batch.weight_BT)
    logprob_NB, greedy_NB = jax.lax.map(score_chunk, pieces)
    sums = _Sums(jnp.sum(logprob_NB, axis=0), jnp.all(greedy_NB, axis=0))
    return jax.lax.with_sharding_constraint(sums, P())
