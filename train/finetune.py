"""Fine-tuning from Python: the command's configuration and run, and an object to use the result.

``tera_jax.finetune`` calls :func:`finetune`.
"""

import contextlib
import dataclasses
import difflib
import json
import os
import signal
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from tera_jax import atomic
from tera_jax.llama import load_tokenizer
from tera_jax.llama.prompts import Prompt, is_one
from tera_jax.ops import dispatch

from . import data, export, pipeline, tasks
from .config import Config, default, parse
from .curve import Curve, LiveCurve, in_notebook
from .data import records as record_files
from .evaluation import answers
from .evaluation.measure import load_tests, measure
from .generation import sampling
from .generation.chat import chat
from .generation.speaker import Speaker
from .generation.style import style_of
from .training import kept, stops
from .training import run as runs
from .training.run import Run
from .training.workdir import RECORDS

_SECTIONS = ("optim", "loop", "data", "model", "method", "decoding", "evaluate", "mesh")
"""In which a setting's name is looked up; the first that has it takes it."""


def finetune(
    model: str | os.PathLike[str],
    records: Any,
    method: str = "tera",
    *,
    workdir: str | os.PathLike[str] | None = None,
    validation: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Any] = (),
    live: bool | None = None,
    **settings: Any,
) -> "Finetuned":
    """See :func:`tera_jax.finetune`."""
    if workdir is None:
        place = Path(tempfile.mkdtemp(prefix="tera-jax-"))
        print(f"the run is kept in {place}", flush=True)
    else:
        place = Path(workdir)
    tree = _tree(method, settings)  # refused before anything is written
    path = _file(records, place)
    tree["model"]["path"] = str(model)
    tree["data"]["path"] = path
    tree["data"]["validation_path"] = None if validation is None else str(validation)
    config = _fitted(tree, settings)
    drawn = (in_notebook() if live is None else live) and LiveCurve()
    given = [*callbacks, *([drawn] if drawn else [])]
    try:
        trained = pipeline.train(config, place, given)
    except stops.Stopped as stopped:
        if stopped.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt(stopped.message) from None
        raise RuntimeError(stopped.message) from None
    return Finetuned(trained.run, place, trained.step, trained.d)


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """A model that was tuned.

    Attributes:
        run: the base on its mesh, its tokenizer, the adapter and the configuration.
        workdir: where the run is kept.
        step: the best one, by the held-out loss.
        d: the trainable arrays of that step.
    """

    run: Run
    workdir: Path
    step: int
    d: Any

    def __repr__(self) -> str:
        method, base = self.run.config.method.name, self.run.config.model.path
        return f"Finetuned({method} on {base}, step {self.step} of {self.workdir})"

    @property
    def history(self) -> list[dict[str, Any]]:
        """The run's log: ``step`` with ``loss`` and so on, or with ``held_out_loss``."""
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
        return [row for line in lines if (row := kept.line(line)) is not None]

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        base: bool = False,
        seed: int = 0,
        batch_size: int = 8,
        **settings: Any,
    ) -> Any:
        """The answers to prompts, in the template that the model was trained with.

        Args:
            prompts: one or a list; each a text, or a list of messages with ``role`` and
                ``content``.
            base: answer without the adapter.
            seed: of sampling.
            batch_size: prompts at once.
            **settings: fields of :class:`tera_jax.llama.GenerationConfig`; else those of the base's
                ``generation_config.json``, and 256 new tokens at most.

        Returns:
            A text for one prompt, a list of texts for a list.

        Raises:
            ValueError: for a prompt that the template does not take, or without room.
            TypeError: for a prompt that is neither, and an unknown setting.
        """
        one = is_one(prompts)
        asked: Any = [prompts] if one else prompts
        speaker = self._speaker(seed, settings)
        ids = [speaker.style.ids(_request(prompt)) for prompt in asked]
        with self._mesh():
            texts = [*speaker.answers(ids, batch_size, base=base)]
        return texts[0] if one else texts

    def stream(
        self, prompt: Prompt, *, base: bool = False, seed: int = 0, **settings: Any
    ) -> Iterator[str]:
        """The answer to one prompt, piece by piece; the arguments are :meth:`generate`'s."""
        speaker = self._speaker(seed, settings)
        return speaker.pieces(speaker.style.ids(_request(prompt)), base)

    def chat(self, *, seed: int = 0, **settings: Any) -> None:
        """Talk to the model, as ``python -m train.generate --chat`` does."""
        speaker = self._speaker(seed, settings)
        with self._mesh():
            chat(speaker)

    def evaluate(
        self,
        file: str | os.PathLike[str],
        metrics: str | Sequence[str] = "exact",
        *,
        task: str = tasks.own.NAME,
        limit: int | None = None,
        base: bool = False,
    ) -> dict[str, float]:
        """The metrics of a file of questions; its answers are written below the workdir.

        Args:
            file: of records with a ``prompt`` or ``messages``, and an ``answer``.
            metrics: ``exact``, ``contains``, ``number``, ``choice``, ``rouge_l`` or
                ``module:function``.
            task: another row of ``train.tasks.TASKS``, which has its own metrics.
            limit: at most so many questions.
            base: answer without the adapter.

        Returns:
            Metric -> mean over the questions.

        Raises:
            FileNotFoundError: when there is no such file.
            ImportError: for a metric that cannot be imported.
            ValueError: for an unknown task or metric, or a record that does not fit them.
        """
        names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        config = self.run.config
        changes: dict[str, Any] = {
            "path": str(file),
            "task": task,
            "metrics": names,
            "limit": limit,
        }
        config = dataclasses.replace(
            config, evaluate=dataclasses.replace(config.evaluate, **changes)
        )
        run = self.run._replace(config=config)
        tests = load_tests(config.evaluate, config.data)
        answers.require(tests, config.evaluate)
        step, d = (0, runs.init_d(run)) if base else (self.step, self.d)
        place = self.workdir / ("evaluation-base" if base else "evaluation")
        with self._mesh():
            found = measure(run, step, d, place, [], tests, earlier=self.workdir / "earlier")
        return found[task].metrics

    def save(self, path: str | os.PathLike[str], format: str = "adapter") -> Path:
        """Write the tuned model and compare what is read back.

        Args:
            path: a directory that is absent or empty.
            format: ``adapter``, ``peft`` (the adapter alone), ``hf`` or ``orbax`` (merged weights).

        Raises:
            FileExistsError: when the directory is not empty.
            ValueError: for a format that there is not, or that the method does not have.
        """
        if format not in export.EXPORTS:
            raise ValueError(f"format {format!r}; choose one of {', '.join(export.EXPORTS)}")
        export.require_format(self.run.config.method, format)
        with self._mesh():
            return export.export(self.run, self.d, format, Path(path))

    def merge(self) -> Any:
        """``params`` that alone do what the tuned model does.

        Raises:
            NotMergeableError: when no weights do.
        """
        return runs.merged(self.run, self.d)

    def plot(self) -> Curve:
        """The curve of the losses: a picture in a notebook, letters in a terminal."""
        return Curve(self.history)

    def _speaker(self, seed: int, settings: Mapping[str, Any]) -> Speaker:
        run = self.run
        config, _ = sampling.decoding(run.config.model.path, settings)
        style = style_of(run.tokenizer, run.config.data)
        variables = run.variables(self.d)
        return Speaker(run.model, variables, run.adapter, run.tokenizer, style, config, seed)

    def _mesh(self) -> contextlib.AbstractContextManager[Any]:
        return jax.set_mesh(self.run.mesh)


def _request(prompt: Prompt) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else {"messages": [*prompt]}


def _tree(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration's fields, the settings among them.

    Raises:
        ValueError: for an unknown setting, with the nearest ones.
    """
    tree = default(method).to_dict()
    tree["model"]["dtype"] = "bfloat16" if dispatch.on_gpu() else "float32"
    tree["data"]["append_eos"] = True
    tree["optim"]["warmup_steps"] = 10
    tree["loop"]["batch_size"] = 8
    tree["loop"]["eval_every"] = 50
    for name, value in settings.items():
        if name in _SECTIONS and isinstance(value, Mapping):
            tree[name].update(value)  # unknown names are refused with the rest
        elif name == "targets":
            tree["method"]["targets"] = (value,) if isinstance(value, str) else tuple(value)
        elif name == "export":
            tree["export"] = tuple(value)
        else:
            tree[_section(tree, name)][name] = value
    return tree


def _section(tree: Mapping[str, Any], name: str) -> str:
    for section in _SECTIONS:
        if name in tree[section]:
            return section
    known = sorted({field for section in _SECTIONS for field in tree[section]})
    near = difflib.get_close_matches(name, known)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise ValueError(f"unknown setting {name!r}; {remedy}")


def _file(records: Any, workdir: Path) -> str:
    """The path of the records; those that are no file are written into the workdir.

    Raises:
        FileExistsError: when the workdir has other records.
        ValueError: for a record that is no dictionary, or holds what JSON has not.
    """
    if isinstance(records, str | os.PathLike):
        return os.fspath(records)
    if not isinstance(records, Iterable):
        raise ValueError(
            f"the records are a {type(records).__name__}; give a file, a list of dictionaries or "
            "a datasets.Dataset"
        )
    lines = []
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise ValueError(f"record {number} is a {type(record).__name__}, not a dictionary")
        try:
            lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        except (TypeError, ValueError) as error:
            raise ValueError(f"record {number} is not of plain values: {error}") from None
    text, file = "".join(lines), workdir / RECORDS
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise FileExistsError(
            f"{file} holds other records; give those again, or choose another workdir"
        )
    if not file.is_file():
        if workdir.is_dir() and any(workdir.iterdir()):
            raise FileExistsError(
                f"{workdir} is not empty and has no {RECORDS}; choose another workdir"
            )
        workdir.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, text)
    return str(file)


def _fitted(tree: dict[str, Any], settings: Mapping[str, Any]) -> Config:
    """The configuration, with limits that cut no record where none are given.

    Raises:
        FileNotFoundError: when there are no such records.
        ValueError: for settings or records that do not fit.
    """
    given = {*settings, *settings.get("data", {})}
    config = parse(tree)
    sources = record_files.sources(config.data)
    first = next(iter(sources.values()))
    if "validation_rows" not in given and config.data.validation_path is None:
        tree["data"]["validation_rows"] = max(1, min(120, len(first.records) // 10))
    if not given & {"max_prompt", "max_response", "max_tokens"}:
        tokenizer = load_tokenizer(config.model.path)
        whole = dataclasses.replace(config.data, max_prompt=2**20, max_response=2**20)
        sizes = [
            data.tokenize(source.records, tokenizer, whole).lengths() for source in sources.values()
        ]
        for name, column in zip(
            ("max_prompt", "max_response"), zip(*sizes, strict=True), strict=True
        ):
            longest = max(int(lengths.max()) for lengths in column)
            tree["data"][name] = -(-longest // 16) * 16  # few shapes for runs alike
    return parse(tree)
