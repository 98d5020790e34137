"""A run as a model of lm-evaluation-harness (EleutherAI), and the harness's results on it.

Texts are tokenised, cut and scored as the harness does for its own ``hf`` model, so that the scores
are those of the merged export. A method that cannot be merged is evaluated as it is. Code that a
checkpoint brings is never run.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from tera_jax.llama.checkpoint import special_tokens
from tera_jax.llama.decode.config import GenerationConfig

from ..config import parse
from ..training import run as runs
from ..training.run import Run
from ..training.workdir import saved_config
from . import likelihood
from .generation import Generator

try:
    import lm_eval
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise ImportError(
        f"train.harness needs lm-evaluation-harness ({error}): pip install 'tera-jax[evaluate]'"
    ) from error

_SAMPLING = ("temperature", "top_k", "top_p")
_ends = functools.lru_cache(maxsize=1)(special_tokens.ends)  # of one tokenizer, for every text


@register_model("tera-jax")
class TeraLM(TemplateLM):
    """The best checkpoint of a run, as a model of the harness.

    Attributes:
        run: the base and the adapter.
        step: of the checkpoint.
        d: the adapter's trainable arrays.
        tokenizer: of the base.
        add_bos_token: whether texts begin with BOS; None leaves it to the tokenizer.
    """

    def __init__(
        self,
        workdir: str | Path,
        batch_size: int | str | None = None,
        add_bos_token: bool | None = None,
    ) -> None:
        """Load the run.

        Args:
            workdir: the directory of a run.
            batch_size: rows at once, by default the run's ``evaluate.batch_size``.
            add_bos_token: see the class.

        Raises:
            FileNotFoundError: when there is no run or no checkpoint.
            ValueError: for a batch size that is no number or that the mesh does not divide, and
                for a BOS token that the tokenizer does not have.
        """
        super().__init__()
        config = parse(saved_config(workdir))
        if batch_size is not None:
            rows = _batch_size(batch_size, config.mesh.data * config.mesh.fsdp)
            evaluate = dataclasses.replace(config.evaluate, batch_size=rows)
            config = dataclasses.replace(config, evaluate=evaluate)
        self.run: Run = runs.build(config, Path(workdir))
        self.step, self.d = runs.restore_best(self.run, workdir)
        self.tokenizer = self.run.tokenizer
        self.add_bos_token = add_bos_token
        if add_bos_token and self.tokenizer.bos_token_id is None:
            raise ValueError("add_bos_token=True, but the tokenizer has no BOS token; leave it out")

    @property
    def eot_token_id(self) -> int:
        """EOS: the tokenizer's, or the first of the model's.

        Raises:
            ValueError: when neither has one.
        """
        if not self.run.eos_ids:
            raise ValueError("neither tokenizer nor config.json has an EOS token; add eos_token_id")
        return self.run.eos_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """The context of a text that has none: BOS, or EOS where there is no BOS."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        """The tokens that the model reads at most."""
        return self.run.model.config.max_position_embeddings

    @property
    def max_gen_toks(self) -> int:
        """The length of an answer where the task does not say."""
        return 256

    @property
    def batch_size(self) -> int:
        """Rows at once."""
        return self.run.config.evaluate.batch_size

    def get_model_info(self) -> dict[str, Any]:
        """What the results say of the model."""
        config = self.run.config
        return {"base": config.model.path, "method": config.method.name, "step": self.step}

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The token ids of a text, without what the tokenizer puts after it, such as EOS.

        Args:
            string: the text.
            add_special_tokens: whether to put BOS before it as ``add_bos_token`` says; None does
                unless the text begins with it.
            **kwargs: none; the harness allows more.
        """
        del kwargs
        if add_special_tokens is None:
            prefix = self.tokenizer.decode(self.prefix_token_id)
            add_special_tokens = not string.startswith(prefix)
        ids = self.tokenizer(string, add_special_tokens=False)["input_ids"]
        if add_special_tokens and self.add_bos_token is None:
            return [*_ends(self.tokenizer).before, *ids]
        add_bos = add_special_tokens and self.add_bos_token
        return [self.tokenizer.bos_token_id, *ids] if add_bos else ids

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of whole texts, in nats, window after window of the greatest length.

        Each token is predicted once, the first from :attr:`prefix_token_id`.
        """
        texts = [request.args[0] for request in requests]
        windows = [
            (row, *utils.make_disjoint_window(window))
            for row, text in enumerate(texts)
            for window in utils.get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            )
        ]
        pairs = [(context, continuation) for _, context, continuation in windows]
        sums = [0.0] * len(texts)
        scores = likelihood.score(self.run, self.d, pairs, progress=not disable_tqdm)
        for (row, _, _), found in zip(windows, scores, strict=True):
            sums[row] += found.logprob
        for text, total in zip(texts, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return sums

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Of (texts, context ids, continuation ids); long contexts lose their beginning."""
        del kwargs
        pairs = [
            (likelihood.cut(context, continuation, self.max_length), continuation)
            for _, context, continuation in requests
        ]
        scores = likelihood.score(self.run, self.d, pairs, progress=not disable_tqdm)
        answers = [(found.logprob, found.greedy) for found in scores]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers up to EOS or a stop string, which is left out.

        Raises:
            ValueError: for a setting that :class:`tera_jax.llama.GenerationConfig` has not,
                or an answer that is as long as the model's context.
        """
        groups: dict[str, list[int]] = {}
        for row, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(row)
        answers: dict[int, str] = {}
        for settings, rows in groups.items():
            options = json.loads(settings)
            contexts = [requests[row].args[0] for row in rows]
            for index, answer in self._generate(contexts, options, not disable_tqdm):
                answers[rows[index]] = answer
                call = (contexts[index], options)
                self.cache_hook.add_partial("generate_until", call, answer)
        return [answers[row] for row in range(len(requests))]

    def _generate(
        self, contexts: Sequence[str], options: dict[str, Any], progress: bool
    ) -> Iterator[tuple[int, str]]:
        """The index of each context and its answer, in any order."""
        decoding, stops = self._decoding(options)
        virtual = self.run.virtual_tokens
        room = self.max_length - decoding.max_new_tokens - len(virtual)
        if room < 1:
            raise ValueError(
                f"max_gen_toks={decoding.max_new_tokens} leaves no room for a prompt in the "
                f"model's {self.max_length} tokens; lower it in the task's generation_kwargs"
            )
        prompts = [[*virtual, *self.tok_encode(context)[-room:]] for context in contexts]
        with jax.set_mesh(self.run.mesh):
            answer = Generator(self.run, self.d, decoding)
            for index, tokens in answer(prompts, progress=progress):
                yield index, _text(tokens, stops, self.tokenizer)

    def _decoding(self, options: dict[str, Any]) -> tuple[GenerationConfig, list[str]]:
        """A task's ``generation_kwargs``, under which the harness is greedy by default."""
        settings: dict[str, Any] = dict(normalize_gen_kwargs(options, self.max_gen_toks))
        stops = handle_stop_sequences(settings.pop("until"), eos=None)
        most = settings.pop("max_gen_toks")
        if not settings["do_sample"]:
            settings = {name: settings[name] for name in settings if name not in _SAMPLING}
        known = {field.name for field in dataclasses.fields(GenerationConfig)}
        if unknown := settings.keys() - known:
            raise ValueError(
                f"generation_kwargs {', '.join(sorted(unknown))} are not offered; choose from "
                f"until, max_gen_toks, {', '.join(sorted(known - {'max_new_tokens'}))}"
            )
        return GenerationConfig(max_new_tokens=most, **settings), stops


def _batch_size(value: int | str, shards: int) -> int:
    if not str(value).isdigit() or int(value) < 1 or int(value) % shards:
        raise ValueError(
            f"batch_size={value!r} must be a number, and a multiple of {shards} (mesh data x fsdp)"
        )
    return int(value)


def _text(tokens: Sequence[int], stops: Sequence[str], tokenizer: Any) -> str:
    """The text up to the first stop string. A special token that is one is no part of the text."""
    special = {
        index for index, token in tokenizer.added_tokens_decoder.items() if token.content in stops
    }
    end = next((place for place, token in enumerate(tokens) if token in special), len(tokens))
    text = tokenizer.decode(tokens[:end], skip_special_tokens=True)
    for stop in filter(None, stops):
        text = text.partition(stop)[0]
    return text


def evaluate(
    model: TeraLM,
    tasks: Sequence[str],
    include_path: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The harness's results without its samples.

    Args:
        model: the model.
        tasks: names of tasks, of groups or of tags.
        include_path: a directory with more tasks.
        **options: of ``lm_eval.simple_evaluate``, such as ``limit`` and ``num_fewshot``.
    """
    path = None if include_path is None else str(include_path)
    manager = TaskManager(include_path=path)
    results = lm_eval.simple_evaluate(
        model, tasks=[*tasks], task_manager=manager, log_samples=False, **options
    )
    assert results is not None  # None is for processes other than the first
    return dict(results)
