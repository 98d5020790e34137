"""The configuration of a study: one model, tasks, methods, and how long each trains."""

import dataclasses
import math
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..config import Config, DataConfig, flag, parse, typed
from ..config.alone import require_defaults
from ..config.limits import require_above_zero, require_at_least, require_seed
from ..training.optim import require_schedule
from . import variants
from .variants import Variant

FIRST_SEED = 0
"""With which learning rates are chosen."""
_OWN = ("path", "validation_path", "validation_rows", "split_seed")
"""Fields of ``config.data`` that a task says itself."""
_TAKEN: dict[str, tuple[str, ...]] = {
    "model": ("path",),
    "data": _OWN,
    "optim": ("learning_rate",),
    "loop": ("steps", "epochs", "seed"),
    "evaluate": (),
}
"""Sections whose fields a study may set, and those that it sets by other means."""
_FOLDER = "studies"


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """A task: a file of records in three parts, and how they become tokens.

    Attributes:
        name: as results and reports call it.
        path: records, as ``config.data.path`` has them.
        train: a slice of the path, such as ``[:800]``, or other records; None takes what is left
            of the path.
        validation: likewise, to choose the learning rate by; None takes ``validation_rows`` of the
            shuffled records of the path.
        test: likewise, which the report alone shows.
        validation_rows: see above; None takes a tenth of the records, but no more than 500.
        test_rows: likewise.
        split_seed: of that shuffle.
        data: other fields of ``config.data``, of this task alone.
    """

    name: str
    path: str
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    validation_rows: int | None = None
    test_rows: int | None = None
    split_seed: int = 58
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(f"name is {self.name!r}; use letters, digits, '.', '_' and '-'")
        require_at_least(1, validation_rows=self.validation_rows, test_rows=self.test_rows)
        require_seed(split_seed=self.split_seed)
        own = sorted(set(self.data) & set(_OWN))
        if own:
            raise ValueError(f"data of task {self.name} has {own[0]}; the task itself says that")
        for part in ("validation", "test"):
            if getattr(self, part) is not None and getattr(self, f"{part}_rows") is not None:
                raise ValueError(
                    f"{part}_rows of task {self.name} is for records that {part} does not name; "
                    "give one of them"
                )
            if self.train is None and (getattr(self, part) or "").startswith("["):
                raise ValueError(
                    f"{part} of task {self.name} is a slice of its path, all of which would be "
                    "trained on; give train too, as another slice"
                )
        if self.train is not None and None in (self.validation, self.test):
            raise ValueError(
                f"train of task {self.name} is {self.train!r}; give validation and test too, or "
                "leave all three to a split"
            )

    def located(self, part: str | None) -> str | None:
        """The path of a part that is a slice of the task's, or a path itself."""
        return f"{self.path}{part}" if part is not None and part.startswith("[") else part


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """A study.

    Attributes:
        model: the base, as ``config.model.path`` has it.
        tasks: the data.
        methods: what is compared: see :mod:`train.studies.variants`.
        baseline: the one that the others are compared with; None takes the first ``lora``, and else
            the first of all.
        rates: learning rates: ``auto`` searches with short and with long runs, ``climb`` with long
            ones alone, and a list is tried as it is.
        seeds: runs at the chosen rate; the first of them chose it.
        steps: of a run.
        search_steps: of the short runs of ``auto``; None takes half of ``steps``.
        recipe: of every run: the name of one, or a file.
        settings: fields of ``config.model``, ``config.data``, ``config.optim``, ``config.loop`` and
            ``config.evaluate`` (the batches of held-out records) in place of the recipe's, by
            section.
    """

    model: str
    tasks: tuple[TaskConfig, ...]
    methods: tuple[str, ...]
    baseline: str | None = None
    rates: Literal["auto", "climb"] | tuple[float, ...] = "auto"
    seeds: int = 3
    steps: int = 300
    search_steps: int | None = None
    recipe: str = "sft"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        require_at_least(1, seeds=self.seeds, steps=self.steps, search_steps=self.search_steps)
        if self.search_steps is not None and self.search_steps > self.steps:
            raise ValueError(
                f"search_steps is {self.search_steps}, more than the {self.steps} steps of a run"
            )
        for rate in self.rates if isinstance(self.rates, tuple) else ():
            require_above_zero(rates=rate)
        if self.rates == ():
            raise ValueError("rates is empty; give one, or auto")
        names = [task.name for task in self.tasks]
        if not names:
            raise ValueError("tasks is empty; name data with --data")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"tasks has two of the name {name!r}; name them apart, as --data "
                    f"first={name} second=..."
                )
        for section, fields in self.settings.items():
            if section not in _TAKEN or not isinstance(fields, Mapping):
                raise ValueError(
                    f"settings has {section!r}; it takes fields of {', '.join(_TAKEN)}"
                )
            if taken := sorted(set(fields) & set(_TAKEN[section])):
                raise ValueError(f"settings has {section}.{taken[0]}, which the study itself sets")

    @property
    def short(self) -> int:
        """Steps of a short run."""
        return self.search_steps or math.ceil(self.steps / 2)


@dataclasses.dataclass(frozen=True)
class Study:
    """A study whose variants are made, and the configuration of each run."""

    config: StudyConfig
    variants: tuple[Variant, ...]

    def task(self, name: str) -> TaskConfig:
        """The task of a name."""
        return next(task for task in self.config.tasks if task.name == name)

    def variant(self, name: str) -> Variant:
        """The variant of a name, or the base's."""
        return next(each for each in (*self.variants, variants.PLAIN) if each.name == name)

    def run(self, variant: Variant, task: TaskConfig) -> Config:
        """The configuration of a run with the first seed; its learning rate is a search's start.

        Raises:
            ValueError: for a field that there is not, or a value that it does not take; it begins
                with the name of the variant.
        """
        study = self.config
        tree = flag.recipe(study.recipe, variant.method).to_dict()
        tree["data"]["validation_path"] = None
        for section, fields in {**study.settings, "data": self._data(task)}.items():
            tree[section].update(fields)
        tree["model"]["path"] = study.model
        tree["data"]["path"] = task.path
        tree["loop"]["steps"] = study.steps
        tree["method"].update(variant.settings())
        if "seed" in tree["method"]:
            tree["method"]["seed"] = FIRST_SEED
        tree["optim"]["learning_rate"] = variant.rate or tree["optim"]["learning_rate"]
        try:
            config = parse(tree)
            require_defaults(config, "train.compare")
            require_schedule(config.optim, study.steps)
            return config
        except ValueError as error:
            raise ValueError(f"{variant.name} on {task.name}: {error}") from None

    def data(self, task: TaskConfig) -> DataConfig:
        """How the records of a task become tokens; the same for all variants."""
        return self.run(variants.PLAIN, task).data

    def _data(self, task: TaskConfig) -> dict[str, Any]:
        return {**self.config.settings.get("data", {}), **task.data}


def make(config: StudyConfig, given: tuple[Variant, ...] | None = None) -> Study:
    """The study of a configuration, all of whose runs are possible as far as they say.

    Args:
        config: of the study.
        given: variants in place of those that ``config.methods`` describes.

    Raises:
        ValueError: for an unknown method or field, a value that it does not take, two variants
            that are one, or a baseline that is none of them.
    """
    study = Study(config, variants.parse_all(config.methods) if given is None else given)
    for task in config.tasks:
        methods = {each.name: study.run(each, task).method for each in study.variants}
        variants.require_distinct(methods, study.variants)
    names = [variant.name for variant in study.variants]
    if config.baseline is not None and config.baseline not in names:
        raise ValueError(f"baseline {config.baseline!r} is none of {', '.join(names)}")
    return study


def build(tree: Mapping[str, Any]) -> StudyConfig:
    """A configuration from plain values, each checked.

    Raises:
        ValueError: naming the key, its value and the remedy.
    """
    return typed.build(StudyConfig, tree, "study")


def load(name: str) -> dict[str, Any]:
    """What ``get_config()`` of a study's file gives, as plain values.

    Args:
        name: of the file, or of one in ``configs/studies``.

    Raises:
        FileNotFoundError: when there is none.
    """
    known = {file.stem: file for file in sorted(flag.folder().glob(f"{_FOLDER}/[!_]*.py"))}
    file = known.get(name, Path(name))
    if not file.is_file():
        raise FileNotFoundError(
            f"--config={name} does not exist; name a file, or one of {', '.join(known)}"
        )
    tree = runpy.run_path(str(file))["get_config"]().to_dict()
    tree["tasks"] = [dict(task) for task in tree.get("tasks", ())]
    return tree
