"""Training: from the last checkpoint to the last step, or to a signal."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import jax
import numpy as np

from tera_jax import sharding, trees

from .. import data
from . import distributed, loggers, optim, stops
from .callbacks import Callbacks
from .checkpoint import Checkpoints
from .metrics import Log, NotFiniteError
from .run import Run, init_train_state
from .steps.loss import LossSum
from .steps.step import State, make_eval_step, make_train_step

_T = TypeVar("_T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def fit(
    run: Run,
    workdir: Path,
    train: Sequence[data.Example],
    valid: Sequence[data.Example],
    callbacks: Sequence[Any] = (),
) -> None:
    """Train ``d``, on the layers as they are: see :func:`train.training.run.unrolled`.

    Goes on from the last checkpoint in ``workdir``, if there is one. The held-out loss is taken
    every ``eval_every`` steps and at the last; each time a checkpoint is written. With
    ``optim.ema_decay`` it is that of the averaged d. ``patience`` may end the training before, and
    the run is then finished. The callbacks are those of :mod:`train.training.callbacks`.

    Raises:
        Stopped: on SIGINT and SIGTERM and when the hours are over, after a checkpoint; when the
            disk is full.
        FloatingPointError: when a loss, a gradient, d or the optimizer's state is not finite.
        ValueError: when there are no training or held-out examples, or none has a target; when the
            run has more steps behind it than ``config.loop`` gives it.
    """
    loop = run.config.loop
    virtual = len(run.virtual_tokens)
    for name, examples in (("training", train), ("held-out", valid)):
        data.require_targets(examples, run.config.data, name, virtual)
    stream = data.DataIterator(train, loop.batch_size, loop.seed, run.config.data, virtual=virtual)
    steps = loop.steps or stream.num_steps(loop.epochs)
    optim.require_schedule(run.config.optim, steps)
    state, optimizer = init_train_state(run, steps)
    train_step = make_train_step(
        run.model,
        run.adapter,
        optimizer,
        run.mesh,
        run.params,
        state,
        loop.seed,
        loop.grad_accum_steps,
        run.config.model.kept_layers,
    )
    eval_step = make_eval_step(run.model, run.adapter, run.mesh, run.params)

    patience = stops.Patience(loop.patience, loop.min_delta)
    late = deadline(loop.max_hours)
    with (
        Checkpoints(workdir) as checkpoints,
        caught_signals() as caught,
        stops.disk_full(workdir),
        stops.not_finite(workdir, stream),
    ):
        last = checkpoints.whole
        if last is not None:
            state, meta = checkpoints.restore(last, state, run.meta)
            stream.position = meta.position
            patience.go_on(meta.progress)
        done = int(state.step)
        if done > steps:
            raise ValueError(
                f"config.loop gives the run {steps} steps, but {workdir} has {done} of it; give at "
                "least as many"
            )
        told = Callbacks(callbacks, workdir, steps)
        logger = loggers.start(loop.loggers, workdir, done, run.meta.config)
        with Log(logger, done, steps, loop.log_every, told) as log:
            told.call("on_start", done)
            step = done
            if done:
                log.message(f"resumed at step {done} of {steps}")
            elif steps <= run.config.optim.warmup_steps:
                log.message(_only_warms_up(steps, run.config.optim.warmup_steps))
            for step in range(done + 1, done + 1 if patience.is_over else steps + 1):
                before, batch = stream.position, next(stream)
                state, metrics = train_step(state, run.params, run.frozen, to_device(batch, run))
                log.train(step, metrics, data.num_tokens(batch), (before, stream.position))
                enough = told.stopping()
                evaluate = step % loop.eval_every == 0 or step == steps or enough
                save = loop.checkpoint_every and step % loop.checkpoint_every == 0
                stop = distributed.stopping(step, bool(caught))
                over = late()
                if not (evaluate or save or stop or over):
                    continue
                with log.pause():
                    loss = None
                    if evaluate:
                        d = optim.averaged(state.d, state.opt)
                        loss = held_out_loss(run, eval_step, d, valid)
                    _require_finite(step, (before, stream.position), loss, state)
                    if loss is not None:
                        patience.add(loss)
                        log.event(step, held_out_loss=loss)
                        log.message(f"step {step}: held-out loss {loss:.4f}")
                        told.call("on_eval", step, held_out_loss=loss)
                    progress = patience.to_json()
                    meta = run.meta._replace(position=stream.position, progress=progress)
                    place = checkpoints.save(state, meta, loss)
                    told.call("on_save", step, held_out_loss=loss, checkpoint=place)
                if stop and step < steps:
                    number = caught[0] if caught else signal.SIGTERM
                    raise stops.interrupted(number, step, loop.requeue_status)
                if over and step < steps:
                    raise stops.time_is_up(loop.max_hours or 0.0, step, loop.requeue_status)
                if evaluate and (enough or told.stopping()) and step < steps:
                    log.message(f"a callback ends the training at step {step} of {steps}")
                    break
                if patience.is_over:
                    break
            if patience.is_over and step < steps:
                log.message(_no_better(step, steps, patience))
            log.message(f"trained to step {step}: {log.summary()}")
            told.call("on_end", step)


def _only_warms_up(steps: int, warmup: int) -> str:
    return (
        f"all {steps} steps are in the warm-up (config.optim.warmup_steps={warmup}): the learning "
        "rate stays below config.optim.learning_rate; lower config.loop.batch_size, or raise "
        "config.loop.epochs"
    )


def _no_better(step: int, steps: int, patience: stops.Patience) -> str:
    return (
        f"early stopping at step {step} of {steps}: {patience.waited} evaluations in a row are not "
        f"below the best held-out loss, {patience.best:.4f}, by more than {patience.min_delta} "
        "(config.loop.patience)"
    )


def _require_finite(step: int, fed: tuple[int, int], loss: float | None, state: State) -> None:
    """Raise ``NotFiniteError`` where the held-out loss or an array of the state is not finite."""
    if loss is not None and not math.isfinite(loss):
        raise NotFiniteError(step, f"a held-out loss of {loss}", {"held_out_loss": loss}, fed)
    array = trees.not_finite(state._asdict())
    if array is not None:
        raise NotFiniteError(step, f"left NaN or infinity in {array}", {"array": array}, fed)


def deadline(hours: float | None) -> Callable[[], bool]:
    """Whether so many hours have passed since this call; all processes go by the first's clock."""
    if hours is None:
        return lambda: False
    end = time.monotonic() + 3600 * hours
    return lambda: distributed.agreed(time.monotonic() > end)


def held_out_loss(run: Run, eval_step: Any, d: Any, examples: Sequence[data.Example]) -> float:
    """Mean negative log-likelihood of the target tokens, in nats.

    Raises:
        ValueError: when there are no examples, or none has a target.
    """
    size, virtual = run.config.evaluate.batch_size, len(run.virtual_tokens)
    data.require_targets(examples, run.config.data, "held-out", virtual)
    sums: list[LossSum] = [
        eval_step(d, run.params, run.frozen, to_device(batch, run))
        for batch in data.held_out(examples, size, run.config.data, virtual)
    ]
    nll, tokens = (float(sum(column)) for column in zip(*jax.device_get(sums), strict=True))
    return nll / tokens


def to_device(batch: Any, run: Run) -> Any:
    """A batch over the whole mesh, of which this process sends its own rows to its devices.

    Every process makes the whole batch on its host, so that it is the same for any number of them.
    """
    rows = sharding.rows(run.mesh)

    def place(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, rows, array.__getitem__)

    return jax.tree.map(place, batch)


def one_late(items: Iterable[_T]) -> Iterator[_T]:
    """Each item after the next was made, so that the device works while the host reads."""
    held: list[_T] = []
    for item in items:
        yield from held
        held = [item]
    yield from held


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are put on a list; the second of either acts at once.

    Several processes leave them to JAX, which makes all stop at one step. In a thread that is not
    the main one they do what they did before.
    """
    caught: list[int] = []
    # Python takes signals in its main thread alone.
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}

    def catch(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    try:
        for number in _SIGNALS:
            signal.signal(number, catch)
        yield caught
    finally:
        for number in _SIGNALS:
            signal.signal(number, previous[number])
