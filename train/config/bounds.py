"""What a configuration must hold beyond the types of its fields."""

from typing import TYPE_CHECKING

from tera_jax.methods.base import FullMethod

from .. import tasks

if TYPE_CHECKING:
    from . import Config


def check(config: "Config") -> None:
    """Raise ``ValueError``, with the field, its value and the remedy, for what cannot be run."""
    for where, value, least in (
        ("data.max_prompt", config.data.max_prompt, 1),
        ("data.max_response", config.data.max_response, 1),
        ("data.max_tokens", config.data.max_tokens, 2),
        ("data.validation_rows", config.data.validation_rows, 1),
        ("data.history", config.data.history, 1),
        ("loop.batch_size", config.loop.batch_size, 1),
        ("loop.eval_every", config.loop.eval_every, 1),
        ("loop.log_every", config.loop.log_every, 1),
        ("loop.checkpoint_every", config.loop.checkpoint_every, 1),
        ("loop.accumulate", config.loop.accumulate, 1),
        ("loop.steps", config.loop.steps, 1),
        ("evaluate.rows", config.evaluate.rows, 1),
        ("evaluate.batch_size", config.evaluate.batch_size, 1),
        ("optim.warmup_steps", config.optim.warmup_steps, 0),
        ("optim.weight_decay", config.optim.weight_decay, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f"config.{where} is {value}; it must be at least {least}")
    if not config.optim.learning_rate > 0:
        raise ValueError(
            f"config.optim.learning_rate is {config.optim.learning_rate}; it must be above 0"
        )
    if config.loop.max_hours is not None and not config.loop.max_hours > 0:
        raise ValueError(f"config.loop.max_hours is {config.loop.max_hours}; it must be above 0")
    if not 0 < config.loop.requeue_status < 256:
        raise ValueError(
            f"config.loop.requeue_status is {config.loop.requeue_status}; an exit status is from 1 "
            "to 255"
        )
    if config.loop.steps is None and not config.loop.epochs > 0:
        raise ValueError(f"config.loop.epochs is {config.loop.epochs}; it must be above 0")
    longest = config.data.max_prompt + config.data.max_response
    longest = min(longest, config.data.max_tokens or longest)
    if config.data.packed_tokens is not None and config.data.packed_tokens < longest:
        raise ValueError(
            f"config.data.packed_tokens is {config.data.packed_tokens}, but a record may have "
            f"{longest} tokens; raise it, or lower max_prompt, max_response or max_tokens"
        )
    shards = config.mesh.data * config.mesh.fsdp
    for where, size in (
        ("loop.batch_size", config.loop.batch_size),
        ("evaluate.batch_size", config.evaluate.batch_size),
    ):
        if shards > 0 and size % shards:
            raise ValueError(
                f"config.{where} {size} is not a multiple of mesh data x fsdp = {shards}"
            )
    if shards > 0 and config.loop.batch_size % (config.loop.accumulate * shards):
        raise ValueError(
            f"config.loop.batch_size {config.loop.batch_size} is not a multiple of loop.accumulate "
            f"x mesh data x fsdp = {config.loop.accumulate * shards}"
        )
    if config.model.block < 2 or config.model.block % 2:
        raise ValueError(f"config.model.block is {config.model.block}; it must be even, at least 2")
    if config.model.quantize != "none" and isinstance(config.method.settings, FullMethod):
        raise ValueError(
            f"config.method.name {config.method.name!r} trains the base's own weights, which "
            f"config.model.quantize {config.model.quantize!r} does not keep; set it to 'none', or "
            "choose another method"
        )
    tasks.task(config.evaluate.task)
