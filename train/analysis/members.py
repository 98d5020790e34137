"""The runs that are analysed: what their configurations say of each, before anything is loaded."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tera_jax.adapters.base import Adapter
from tera_jax.analysis.updates import require_updates
from tera_jax.llama import Llama, load_config
from tera_jax.methods import NotMergeableError

from .. import command
from ..config import Config, parse
from ..training import run as runs
from ..training.checkpoint import last_sealed
from ..training.workdir import saved_config

_SEED = "seed"
_SLICE, _NO_NAME = re.compile(r"\[[^\]]*\]$"), re.compile(r"[^\w.+-]+")


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of the analysis.

    Attributes:
        path: its directory, as it was given.
        config: of the run.
        adapter: its method and layers.
        label: the method with the fields that are not at their defaults, but for seeds. Runs of one
            label and task are seeds of one setting.
        task: the names of the files of training records, without endings and slices; their whole
            paths where runs have other files of the same name.
        tuned: whether the learning rate was chosen for this setting, and so is no part of it.
    """

    path: Path
    config: Config
    adapter: Adapter
    label: str = ""
    task: str = ""
    tuned: bool = False

    @property
    def method(self) -> str:
        """A row of ``tera_jax.methods.TABLE``."""
        return self.config.method.name

    @property
    def seed(self) -> int:
        """Of the order of the data, and of d."""
        return self.config.loop.seed

    @property
    def frozen_seed(self) -> int:
        """Of the frozen arrays."""
        return self.config.method.settings.frozen_seed

    @property
    def fields(self) -> dict[str, Any]:
        """The method's own, but for the seed."""
        settings = self.config.method.settings
        names = [field.name for field in dataclasses.fields(settings) if field.name != _SEED]
        return {name: getattr(settings, name) for name in names}

    @property
    def base(self) -> tuple[Any, ...]:
        """What the arrays of the base depend on; runs alike in it share them."""
        model = self.config.model
        return model.path, model.dtype, model.quantize, model.block, self.config.mesh

    @property
    def order(self) -> tuple[Any, ...]:
        """That runs stand in, however they were given."""
        training = self.config.optim.learning_rate, self.config.loop.steps or 0
        return self.task, self.label, self.seed, self.frozen_seed, *training, str(self.path)


def read(paths: Iterable[Path]) -> tuple[list[Member], list[str]]:
    """The runs in their order, and for each that has no update of kernels, why, in a line.

    Raises:
        FileNotFoundError: for a directory without a run, or a run without a checkpoint.
        ValueError: for a damaged configuration, one run given twice, runs that are alike in all,
            or runs of several bases.
    """
    found: list[Member] = []
    left_out: list[str] = []
    for path in sorted(set(paths), key=str):
        config = parse(saved_config(path))
        if last_sealed(path) is None:
            train = command.named("main")
            raise FileNotFoundError(f"{path} has no checkpoint; run {train} --workdir={path} first")
        adapter = runs.make_adapter(config, _model(config.model.path))
        try:
            require_updates(adapter)
        except NotMergeableError:
            left_out.append(f"{path}: {adapter.name} has no update of weights to be analysed")
        except ValueError:
            left_out.append(f"{path}: {adapter.name} changes more than kernels of linear layers")
        else:
            found.append(Member(path, config, adapter))
    _require_one_base(found)
    labelled = with_labels(found)
    _require_distinct(labelled)
    return sorted(labelled, key=lambda member: member.order), left_out


@functools.lru_cache(maxsize=4)
def _model(path: str) -> Llama:
    return Llama(load_config(path))


def _with_tasks(members: Sequence[Member]) -> list[Member]:
    paths: dict[str, set[str]] = {}
    for member in members:
        paths.setdefault(_task(member, whole=False), set()).add(_task(member, whole=True))
    return [
        dataclasses.replace(member, task=_task(member, len(paths[_task(member, False)]) > 1))
        for member in members
    ]


def _task(member: Member, whole: bool) -> str:
    parts = [Path(_SLICE.sub("", part)) for part in member.config.data.path.split(",")]
    names = [str(part) if whole else part.name.split(".")[0] for part in parts]
    return _NO_NAME.sub("-", "+".join(dict.fromkeys(names))).strip("-")


def with_labels(members: Sequence[Member]) -> list[Member]:
    """With tasks, and labels in which rates and steps stand only where runs of one setting differ.

    Args:
        members: all of the analysis.
    """
    members = _with_tasks(members)
    plain = [_setting(member) for member in members]
    training = [
        (("rate", f"{member.config.optim.learning_rate:g}"), ("steps", _steps(member)))
        for member in members
    ]
    result = []
    for member, label, own in zip(members, plain, training, strict=True):
        alike = [
            of for other, of in zip(plain, training, strict=True) if other == label and of != own
        ]
        added = [
            f"{name}={value}"
            for place, (name, value) in enumerate(own)
            if any(of[place] != own[place] for of in alike)
        ]
        joined = ",".join([*filter(None, [label.partition(":")[2]]), *added])
        whole = member.method + (f":{joined}" if joined else "")
        result.append(dataclasses.replace(member, label=whole))
    return result


def _setting(member: Member) -> str:
    """As ``train.compare`` writes a variant: ``tera:num_modes=2,targets=v_proj+o_proj``."""
    settings = member.config.method.settings
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    given = {name: of for name, of in member.fields.items() if of != defaults[name]}
    targets = member.config.method.targets
    if targets != settings.default_targets:
        given["targets"] = targets
    fields = ",".join(f"{name}={_text(value)}" for name, value in given.items())
    return f"{member.method}:{fields}" if fields else member.method


def _text(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _steps(member: Member) -> str:
    loop = member.config.loop
    return str(loop.steps) if loop.steps is not None else f"{loop.epochs:g} epochs"


def _require_one_base(members: Sequence[Member]) -> None:
    bases = sorted({member.config.model.path for member in members})
    if len(bases) > 1:
        raise ValueError(
            f"the runs are of several bases: {', '.join(bases)}; their updates have no common "
            "space, so give the runs of one base"
        )


def _require_distinct(members: Sequence[Member]) -> None:
    seen: dict[tuple[Any, ...], Path] = {}
    for member in members:
        key = member.order[:-1]
        if key in seen:
            raise ValueError(
                f"{seen[key]} and {member.path} are both {member.label} on {member.task} with seed "
                f"{member.seed}; leave one out"
            )
        seen[key] = member.path
