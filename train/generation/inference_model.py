"""The model that answers and scores with a trained adapter: merged where that can be."""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from tera_jax import quantize
from tera_jax.adapters.base import Adapter
from tera_jax.llama import Llama, stacking
from tera_jax.llama.decode import float32_matmul
from tera_jax.ops import dispatch

from ..training.run import Run, merged


class InferenceModel(NamedTuple):
    """A model for inference.

    Attributes:
        model: that ``apply`` runs.
        variables: all collections that ``apply`` reads.
        apply: ``model.apply`` with the adapter, where it is not merged.
    """

    model: Llama
    variables: dict[str, Any]
    apply: Callable[..., Any]


def inference_model(run: Run, d: Any) -> InferenceModel:
    """What answers and scores with ``d``.

    A method that can be merged is merged first, which makes it as fast as the base. A quantised
    base stays as it is: merged it would take the memory that it was quantised to save.
    """
    model = run.model
    if not run.adapter.mergeable or quantize.any_quantized(run.params):
        return InferenceModel(model, run.variables(d), _adapted(run.adapter, model))
    params = merged(run, d)
    if run.config.evaluate.unroll:
        model, params = model.clone(unroll=True), stacking.split(params, keep=True)
    return InferenceModel(model, {"params": params}, _merged(model))


@functools.cache  # the same object each time, so that what is jitted with it is not compiled again
def _adapted(adapter: Adapter, model: Llama) -> Callable[..., Any]:
    return functools.partial(adapter.apply, model)


@functools.cache
def _merged(model: Llama) -> Callable[..., Any]:
    def apply(variables: Any, *args: Any, **kwargs: Any) -> Any:
        variables = {"params": stacking.stacked(variables["params"])}
        with nn.intercept_methods(float32_matmul.interceptor) if _exact() else nullcontext():
            return model.apply(variables, *args, **kwargs)

    return apply


def _exact() -> bool:
    """Whether float32 products are to be those of float32, on a GPU."""
    asked = jax.config.jax_default_matmul_precision in ("highest", "float32")  # type: ignore[attr-defined]
    return asked and dispatch.on_gpu()
