"""A model that was tuned in this process: what it can be asked and what can be made of it."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from tera_jax.llama.prompts import Prompt, is_one

from . import export, model_card, tasks
from .curve import Curve
from .evaluation import answers
from .evaluation.measure import load_tests, measure
from .generation import sampling
from .generation.chat import chat
from .generation.speaker import Speaker
from .generation.style import style_of
from .training import kept
from .training import run as runs
from .training.run import Run


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
        return kept.lines(self.workdir / "metrics.jsonl")

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

    def save(
        self,
        path: str | os.PathLike[str],
        format: str = "adapter",
        *,
        gguf_type: str | None = None,
    ) -> Path:
        """Write the tuned model and compare what is read back.

        Args:
            path: a directory that is absent or empty.
            format: ``adapter``, ``peft`` (the adapter alone), ``hf``, ``orbax`` or ``gguf`` (merged
                weights).
            gguf_type: ``f16``, ``bf16`` or ``q8_0``; by default bf16 for a base in bfloat16, and
                f16 for another.

        Raises:
            FileExistsError: when the directory is not empty.
            ValueError: for a format that there is not, or that the method or the base does not
                have.
        """
        if format not in export.EXPORTS:
            raise ValueError(f"format {format!r}; choose one of {', '.join(export.EXPORTS)}")
        run = self.run
        export.require_format(run.config.method, format)
        export.require_base([format], run.config, run.model.config, run.tokenizer, gguf_type)
        with self._mesh():
            written = export.export(run, self.d, format, Path(path), gguf_type)
        model_card.write(written, format, run, self.d, self.workdir, self.step)
        return written

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
