"""The held-out loss of plain weights, such as merged ones."""

from collections.abc import Sequence
from typing import Any

import jax

from tera_jax import quantize

from .. import data
from ..training import run as runs
from ..training.loop import held_out_loss
from ..training.run import Run
from ..training.steps.step import make_eval_step


class Nll:
    """The mean negative log-likelihood of records under plain weights, in nats a target token.

    Args:
        base: with an adapter that changes nothing at its first d, such as LoRA.
        examples: the records.
    """

    def __init__(self, base: Run, examples: Sequence[data.Example]) -> None:
        self._run, self._examples = base, examples
        self._step: Any = None
        self._d = runs.init_d(base)

    def __call__(self, params: Any) -> float:
        """Of the base's model with these ``params``. Other arrays are no new trace."""
        run = self._run._replace(params=jax.jit(quantize.dequantize)(params))
        self._step = self._step or make_eval_step(run.model, run.adapter, run.mesh, run.params)
        return held_out_loss(run, self._step, self._d, self._examples)
