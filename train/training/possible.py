"""What a run needs, checked before its base is loaded."""

import jax
import jax.numpy as jnp

from tera_jax.adapters.base import Adapter
from tera_jax.llama import Llama

from .. import data
from ..config import Config
from . import optim
from .start import require_start


def require_fit(config: Config, model: Llama, adapter: Adapter, train: data.Examples) -> None:
    """Check the parts of a run that are known without the weights of its base.

    Args:
        config: of the run.
        model: whose sizes are those of the base.
        adapter: of the run.
        train: training examples, without virtual tokens.

    Raises:
        FileNotFoundError: when ``config.model.adapter`` holds no adapter.
        ValueError: when it is of another method; when a pattern of ``config.optim`` names no array
            of d; when a schedule is longer than the run.
    """
    if config.model.adapter is not None:
        require_start(config.model.adapter, adapter)
    if config.optim.rate_factors or config.optim.weight_decay_mask:
        tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
        params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
        optim.require_patterns(config.optim, adapter.abstract_d(params))
    if config.optim.schedule == "wsd":  # packing takes a while to count the steps of
        loop, virtual = config.loop, adapter.virtual_tokens(model.config.vocab_size)
        stream = data.DataIterator(
            train.after(virtual), loop.batch_size, loop.seed, config.data, virtual=len(virtual)
        )
        optim.require_schedule(config.optim, loop.steps or stream.num_steps(loop.epochs))
