"""Answers to many prompts: buckets of length, batches over the mesh, one program for each shape."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from tera_jax import sharding
from tera_jax.llama.decode.config import GenerationConfig
from tera_jax.llama.decode.generate import generate as decode
from tera_jax.llama.decode.generate import left_pad

from ..generation.inference_model import inference_model
from ..training import distributed
from ..training.loop import one_late, to_device
from ..training.run import Run


class Generator:
    """An adapted model ready to answer; it compiles once for each shape of prompts.

    Args:
        run: the base and the adapter.
        d: the adapter's trainable arrays.
        decoding: how tokens are chosen; the run's when None.
        seed: of sampling; the draws for a prompt depend on it and on the prompt's index alone.
    """

    def __init__(
        self, run: Run, d: Any, decoding: GenerationConfig | None = None, seed: int | None = None
    ) -> None:
        self._run, self._decoding = run, decoding or run.config.decoding
        model, self._variables, apply = inference_model(run, d)
        seed = run.config.evaluate.seed if seed is None else seed
        static: dict[str, Any] = {"decoding": self._decoding, "apply": apply}
        static |= {"eos_id": run.eos_ids, "pad_id": 0}

        def answer(variables: Any, tokens_BL: Any, segments_BL: Any, row_B: Any) -> jax.Array:
            key_B = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(row_B)
            return decode(model, variables, tokens_BL, segments_BL, key_B=key_B, **static)

        rows, everywhere = sharding.rows(run.mesh), sharding.replicated(run.mesh)
        # Every process reads all answers.
        self._decode = jax.jit(answer, in_shardings=(None, *[rows] * 3), out_shardings=everywhere)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int] | None = None,
        progress: bool = False,
    ) -> Iterator[tuple[int, list[int]]]:
        """Answers, batch after batch, the prompts in the order of their lengths.

        Args:
            prompts: token ids, with the method's virtual tokens.
            rows: the indices of the prompts to be answered; all when None.
            progress: show a bar.

        Yields:
            the index of a prompt and its new token ids, without the one that ends it: the first
            of the run's ``eos_ids``.

        Raises:
            ValueError: when a prompt with its answer is longer than the model's context.
        """
        require_room(self._run, prompts, self._decoding.max_new_tokens)
        asked = range(len(prompts)) if rows is None else rows
        order = sorted(asked, key=lambda row: len(prompts[row]))
        size, eos_ids = self._run.config.evaluate.batch_size, {*self._run.eos_ids}
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        with distributed.bar(progress, total=len(order), unit="answer") as bar:
            for chunk, new_BT in one_late(
                (chunk, self._dispatch(prompts, chunk)) for chunk in chunks
            ):
                for row, tokens_T in zip(chunk, jax.device_get(new_BT).tolist(), strict=False):
                    yield row, [*itertools.takewhile(lambda id_: id_ not in eos_ids, tokens_T)]
                bar.update(len(chunk))

    def _dispatch(self, prompts: Sequence[Sequence[int]], chunk: list[int]) -> jax.Array:
        """A batch of one size, filled up with the chunk's last prompt."""
        size = self._run.config.evaluate.batch_size
        filled = [*chunk, *[chunk[-1]] * (size - len(chunk))]
        batch = (
            *left_pad([prompts[row] for row in filled], pad_id=0),
            np.asarray(filled, np.int32),
        )
        return self._decode(self._variables, *to_device(batch, self._run))


def generate(
    run: Run,
    d: Any,
    prompts: Sequence[Sequence[int]],
    decoding: GenerationConfig,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[tuple[int, list[int]]]:
    """Answers to one set of prompts; see :class:`Generator`."""
    return Generator(run, d, decoding, seed)(prompts, progress=progress)


def require_room(run: Run, prompts: Sequence[Sequence[int]], new: int) -> None:
    """Raise ``ValueError`` for a prompt that with ``new`` tokens is longer than the context."""
    limit = run.model.config.max_position_embeddings
    for row, prompt in enumerate(prompts):
        if len(prompt) + new > limit:
            raise ValueError(
                f"prompt {row} has {len(prompt)} tokens, and with {new} new ones that is more than "
                f"the model's context of {limit}; shorten it, or lower config.data.max_prompt"
            )
