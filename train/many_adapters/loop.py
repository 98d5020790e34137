"""Training of many adapters: from the last checkpoint to the last of them, or to a signal."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tera_jax import trees
from tera_jax.adapters.base import Adapter
from tera_jax.llama import stacking

from .. import data
from ..data import Batch
from ..data.packing import Row
from ..model_card import Known
from ..training import run as runs
from ..training import stops
from ..training.checkpoint import Checkpoints
from ..training.loop import caught_signals, deadline, to_device
from ..training.optim import require_patterns
from ..training.run import Run
from ..training.steps.step import State, make_eval_step
from . import results
from .log import Log
from .members import Member, common_row, joined, padded, unweighted
from .progress import Board, Progress
from .step import SlotMetrics, empty_state, make_load, make_slot_step, take


class _Own(NamedTuple):
    """An adapter of a method, and the jitted function that makes its first d."""

    adapter: Adapter
    init_d: Callable[..., Any]


class _Held(NamedTuple):
    """A step whose metrics are still on the device: which adapters took which of their steps."""

    step: int
    taken: list[tuple[Progress, int] | None]
    metrics: SlotMetrics
    tokens: int


def fit(run: Run, workdir: Path, members: Sequence[Member], active: int) -> list[Progress]:
    """Train every adapter, write it as it ends, and say where each one stands.

    Goes on from the last checkpoint in ``workdir``, if there is one. One that is not finite ends
    alone. Checkpoints are as far apart as ``config.loop`` has them, in steps of the run.

    Args:
        run: of the base, the method and what all adapters inherit; its layers are a stack. It is
            not to be used again, as :func:`train.training.run.unrolled` has it.
        workdir: of the run.
        members: the adapters.
        active: G, those in one step.

    Raises:
        Stopped: as :func:`train.training.loop.fit`.
        ValueError: as :meth:`train.training.checkpoint.Checkpoints.restore`.
    """
    with Checkpoints(workdir) as checkpoints, stops.disk_full(workdir):
        trainer = _Trainer(run, workdir, members, active)
        last = checkpoints.whole
        if last is not None:
            trainer.state, meta = checkpoints.restore(last, trainer.state, run.meta)
            trainer.go_on(Board.from_json(meta.progress))
        trainer.train(checkpoints)
    return trainer.board.all


class _Trainer:
    """The state on the device, where each adapter stands, and the steps that go on with both."""

    def __init__(self, run: Run, workdir: Path, members: Sequence[Member], active: int) -> None:
        self._workdir, self._active = workdir, active
        require_patterns(run.config.optim, run.adapter.abstract_d(run.params))
        self._members = {member.name: member for member in members}
        self._row: Row = common_row(members)
        self._model = run.model
        self.state: State = empty_state(run, active)
        self._load = make_load(run)
        self._run = run = runs.unrolled(run)
        self._step = make_slot_step(run, active, run.config.loop.batch_size)
        self._eval = make_eval_step(run.model, run.adapter, run.mesh, run.params)
        self._own: dict[Any, _Own] = {}
        first = members[0].stream
        self._filler = unweighted(padded(next(dataclasses.replace(first)), self._row))
        self._held: _Held | None = None
        self.board = Board.new([*self._members], active)

    def go_on(self, board: Board) -> None:
        """From a checkpoint: streams where they were, and lost directories to be trained again."""
        self.board = board
        for number, each in enumerate(board.all):
            self._members[each.name].stream.position = each.position
            written = results.place(self._workdir, each.name)
            if each.status == "finished" and not written.is_dir():
                board.all[number] = Progress(each.name)
                self._members[each.name].stream.position = 0

    def train(self, checkpoints: Checkpoints) -> None:
        """Until all adapters have ended."""
        loop = self._run.config.loop
        every = loop.checkpoint_every or loop.eval_every
        late = deadline(loop.max_hours)
        done = int(self.state.step)
        behind = sum(each.taken for each in self.board.all)
        total = sum(member.steps for member in self._members.values())
        with (
            caught_signals() as caught,
            Log(self._workdir, done, behind, total, loop.log_every) as log,
        ):
            if done and not self.board.is_done:
                log.message(f"resumed at step {done}")
            while not self.board.is_done:
                since = time.perf_counter()
                for each in self.board.entering(done + 1):
                    self._enter(each)
                done += 1
                self._advance(done, log)
                ending = [p for p in self._occupants() if p.taken == self._member(p).steps]
                stop, over = bool(caught), late()
                save = done % every == 0 or stop or over
                if ending or save:
                    self._read(log)
                self._share(time.perf_counter() - since)
                for each in ending:
                    if each.status == "active":  # and did not fail in its last step
                        self._finish(each, log)
                if save or self.board.is_done:
                    self._save(checkpoints)
                if self.board.is_done:
                    return
                if stop:
                    raise stops.interrupted(caught[0], done, loop.requeue_status)
                if over:
                    raise stops.time_is_up(loop.max_hours or 0.0, done, loop.requeue_status)

    def _occupants(self) -> list[Progress]:
        return [each for each in self.board.occupants() if each is not None]

    def _member(self, each: Progress) -> Member:
        return self._members[each.name]

    def _enter(self, each: Progress) -> None:
        """Put the first d of an adapter into its slot, and take its held-out loss."""
        d = self._first_d(self._member(each))
        loss = self._held_out_loss(each, d)
        each.before = loss if math.isfinite(loss) else None
        self.state = self._load(self.state, np.asarray(each.slot, np.int32), d)

    def _first_d(self, member: Member) -> Any:
        """As :func:`train.training.run.init_d` has it, for a run of the adapter alone."""
        seed = np.uint32(member.specification.config.loop.seed)
        return self._own_of(member).init_d(self._run.params, self._run.frozen, seed)

    def _own_of(self, member: Member) -> "_Own":
        """What follows from an adapter's method; most adapters have the same."""
        config = member.specification.config
        if config.method not in self._own:
            adapter = runs.make_adapter(config, self._model)

            def init_d(params: Any, frozen: Any, seed: Any) -> Any:
                return adapter.init_d(stacking.stacked(params), frozen, seed)

            self._own[config.method] = _Own(adapter, jax.jit(init_d))
        return self._own[config.method]

    def _advance(self, step: int, log: Log) -> None:
        """Dispatch a step, and read the metrics of the one before."""
        batches: list[Batch] = []
        taken: list[tuple[Progress, int] | None] = []
        rate_G = np.zeros(self._active, np.float32)
        active_G = np.zeros(self._active, bool)
        for slot, each in enumerate(self.board.occupants()):
            if each is None:
                batches.append(self._filler)
                taken.append(None)
                continue
            member = self._member(each)
            batches.append(padded(next(member.stream), self._row))
            rate_G[slot], active_G[slot] = member.rates[each.taken], True
            each.taken, each.position = each.taken + 1, member.stream.position
            taken.append((each, each.taken))
        tokens = sum(data.num_tokens(b) for b, on in zip(batches, active_G, strict=True) if on)
        batch = to_device(joined(batches), self._run)
        given = self._run.params, self._run.frozen, batch, rate_G, active_G
        self.state, metrics = self._step(self.state, *given)
        self._read(log)
        self._held = _Held(step, taken, metrics, tokens)

    def _read(self, log: Log) -> None:
        """Take the metrics that are held back; waits for the device."""
        held, self._held = self._held, None
        if held is None:
            return
        found = jax.device_get(held.metrics)
        losses = {}
        for slot, entry in enumerate(held.taken):
            if entry is None or entry[0].status != "active":
                continue
            each, number = entry
            loss, norm = float(found.loss[slot]), float(found.grad_norm[slot])
            if found.finite[slot]:
                each.add_loss(loss)
                losses[each.name] = loss
                continue
            each.taken = number
            what = f"loss {loss} and a gradient of norm {norm}"
            if math.isfinite(loss) and math.isfinite(norm):
                what = "left NaN or infinity in d"
            self._fail(each, f"step {number} has {what}", held.step, log)
        log.train(held.step, losses, held.tokens)

    def _fail(self, each: Progress, reason: str, step: int, log: Log) -> None:
        """End an adapter. Its slot is free two steps later, whenever its metrics were read."""
        assert each.slot is not None
        self.board.free_from[each.slot] = step + 2
        each.fail(f"{reason}; lower its learning_rate, or train in float32")
        results.write(self.board.all, self._workdir)
        log.message(f"{each.name} is stopped: {each.reason}")

    def _finish(self, each: Progress, log: Log) -> None:
        """Measure an adapter that took its last step, and write it."""
        d = take(self.state.d, np.asarray(each.slot, np.int32))
        loss = self._held_out_loss(each, d)
        array = trees.not_finite(d)
        if array is not None or not math.isfinite(loss):
            what = f"a held-out loss of {loss}" if array is None else f"NaN or infinity in {array}"
            self._fail(each, f"step {each.taken} has {what}", int(self.state.step), log)
            return
        self._run = runs.rolled(self._run)  # a file names the base by its stacks
        member = self._member(each)
        adapter, config = self._own_of(member).adapter, member.specification.config
        meta = self._run.meta._replace(data=member.identities)
        run = self._run._replace(adapter=adapter, config=config, meta=meta)
        first = not any(other.status == "finished" for other in self.board.all)
        known = Known((each.before, loss), member.counts)
        results.write_adapter(run, d, each.name, self._workdir, first, each.taken, known)
        self._run = runs.unrolled(self._run)
        each.status, each.slot, each.after = "finished", None, loss
        results.write(self.board.all, self._workdir)
        log.message(f"{each.name}: {each.taken} steps, held-out loss {loss:.4f}")

    def _held_out_loss(self, each: Progress, d: Any) -> float:
        """Mean negative log-likelihood of an adapter's held-out targets, in nats."""
        run, member = self._run, self._member(each)
        config, virtual = member.stream.config, member.stream.virtual
        sums = [
            self._eval(d, run.params, run.frozen, self._on_device(batch))
            for batch in data.held_out(
                member.held_out, run.config.evaluate.batch_size, config, virtual
            )
        ]
        found = jax.device_get(sums)
        return float(sum(x.nll for x in found) / sum(x.tokens for x in found))

    def _on_device(self, batch: Batch) -> Any:
        return to_device(padded(batch, self._row), self._run)

    def _share(self, seconds: float) -> None:
        """Divide the time of a step among the adapters in it."""
        occupants = self._occupants()
        for each in occupants:
            each.seconds += seconds / len(occupants)

    def _save(self, checkpoints: Checkpoints) -> None:
        position = sum(each.position for each in self.board.all)
        progress = self.board.to_json()
        meta = self._run.meta._replace(position=position, progress=progress)
        checkpoints.save(self.state, meta, None)
