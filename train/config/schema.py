"""The configuration of a run: a ``ConfigDict`` at the edge, a frozen dataclass within."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections
from absl import flags
from ml_collections import config_flags

from tera_jax import sharding
from tera_jax.llama.decode.config import Decoding
from tera_jax.methods import TABLE, method_class
from tera_jax.quantize import BLOCK

from . import bounds, typed

EXPORTS = ("adapter", "peft", "hf", "orbax")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The base model.

    Attributes:
        path: a HF directory, a GGUF file, a directory that holds one, or a hub name.
        dtype: of the weights and of the computation.
        remat: what the backward pass computes again: ``none``, ``dots`` (all but the products of
            weights) or ``full`` (each layer).
        unroll: train with the layers one after the other in place of a loop: faster steps, longer
            to compile. None does so on a GPU, unless ``remat`` is ``full``: a loop takes less
            memory.
        quantize: how the linear layers of the decoder are kept, to be read as ``dtype``: ``none``
            (as they are), ``int8``, ``int4`` or ``nf4``.
        block: consecutive inputs of a quantised layer that share a scale.
    """

    path: str
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Literal["none", "dots", "full"] = "dots"
    unroll: bool | None = None
    quantize: Literal["none", "int8", "int4", "nf4"] = "none"
    block: int = BLOCK


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Records, and how they become tokens.

    Attributes:
        path: training records: a .json or .jsonl file, plain or gzipped, or dialogues in ParlAI's
            text format (.txt); a slice such as ``dialogues.txt[:800]`` takes part of them.
        validation_path: held-out records, or None to take the last ``validation_rows`` of the
            shuffled training records.
        validation_rows: see above.
        split_seed: of the shuffle before that split.
        prompt: the template: ``hira`` (the paper's setting) or ``llm-adapters`` for instructions,
            ``convai2`` (HiRA's) for dialogues.
        history: the last utterances of a dialogue that its prompt holds.
        max_prompt: tokens of a prompt; longer ones lose their beginning.
        max_response: tokens of a response; longer ones lose their end.
        max_tokens: of a training row, prompt and response together; longer ones lose their end.
            None sets no other limit.
        loss_on: the ``response``, or the ``prompt`` too.
        bos: begin a row with the tokenizer's BOS token ``never``, at ``inference`` only (HiRA's
            setting), or ``always``.
        append_eos: end a response with the tokenizer's EOS token where it fits.
        packed_tokens: of a row that holds several records, apart from one another: the loss is the
            same and little is padding. Batch sizes then count rows, in training and for the
            held-out loss. None gives each record a row.
    """

    path: str
    validation_path: str | None = None
    validation_rows: int = 120
    split_seed: int = 58
    prompt: Literal["hira", "llm-adapters", "convai2"] = "hira"
    history: int = 3
    max_prompt: int = 256
    max_response: int = 16
    max_tokens: int | None = None
    loss_on: Literal["response", "prompt"] = "response"
    bos: Literal["never", "inference", "always"] = "never"
    append_eos: bool = False
    packed_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up and a linear decay to zero.

    Attributes:
        learning_rate: the highest, after the warm-up.
        warmup_steps: from zero.
        weight_decay: decoupled.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        clip_norm: the gradient's global norm is kept below this; None leaves it.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = None


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Batches and cadence.

    Attributes:
        batch_size: records a step, over all devices; rows where ``data.packed_tokens`` is set.
        epochs: passes over the training records; ignored when ``steps`` is given.
        steps: optimizer steps, or None.
        seed: of the order of the records.
        eval_every: steps between evaluations of the held-out loss. Each writes a checkpoint; the
            best and the last are kept.
        checkpoint_every: steps between further checkpoints, or None.
        log_every: steps between lines of the log.
        accumulate: parts of a batch that are computed one after the other, for less memory.
        max_hours: after which the run saves its state and stops, for a scheduler to start it again;
            None sets no limit.
        requeue_status: the exit status after SIGTERM and after ``max_hours``.
    """

    batch_size: int = 32
    epochs: float = 3.0
    steps: int | None = None
    seed: int = 0
    eval_every: int = 80
    checkpoint_every: int | None = None
    log_every: int = 10
    accumulate: int = 1
    max_hours: float | None = None
    requeue_status: int = 75


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What is measured before and after training.

    Attributes:
        path: records whose answers are generated, or None to generate none.
        task: which they are; it says how answers are judged: a row of ``train.tasks.TASKS``.
        rows: at most so many of them, or None for all.
        batch_size: prompts decoded at once, and rows of a batch of the held-out loss.
        unroll: decode with the layers one after the other in place of a loop, which on a GPU is
            faster for a small model and longer to compile. Takes a second copy of the base.
        seed: of sampled answers.
        wordnet: the directory of WordNet's dictionary, for METEOR (task ``convai2``). Debian's
            package ``wordnet-base`` puts it at the default.
        encoder: of BERTScore (task ``convai2``): a local path, or a name on the hub.
    """

    path: str | None = None
    task: str = "commonsense"
    rows: int | None = None
    batch_size: int = 32
    unroll: bool = False
    seed: int = 0
    wordnet: str = "/usr/share/wordnet"
    encoder: str = "roberta-large"


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; their product is the number of devices used.

    A flag gives one of them, ``--config.mesh.fsdp=4``, or all: ``--config.mesh=data=2,fsdp=4``.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """The method, the layers it adapts, and its own configuration."""

    name: str
    targets: tuple[str, ...]
    settings: Any


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run. ``export`` names what is written at its end, of :data:`EXPORTS`.

    ``decoding`` says how answers are generated: :class:`tera_jax.llama.Decoding`.
    """

    model: ModelConfig
    data: DataConfig
    method: MethodConfig
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    decoding: Decoding = dataclasses.field(default_factory=Decoding)
    mesh: MeshConfig = MeshConfig()
    export: tuple[str, ...] = ()


def default(method: str = "tera") -> ml_collections.ConfigDict:
    """Every field at its default, for a file in ``configs/`` to fill in and change.

    Raises:
        ValueError: for an unknown method.
    """
    row = method_class(method)
    settings = typed.fields(row)
    return ml_collections.ConfigDict(
        {
            "model": typed.fields(ModelConfig),
            "data": typed.fields(DataConfig),
            "method": {"name": method, "targets": row.default_targets, **settings},
            "optim": typed.fields(OptimConfig),
            "loop": typed.fields(LoopConfig),
            "evaluate": typed.fields(EvaluateConfig),
            "decoding": typed.fields(Decoding),
            "mesh": _Mesh(typed.fields(MeshConfig)),
            "export": (),
        }
    )


class _Mesh(ml_collections.ConfigDict):
    """What tells the flags that this field may also be a text."""


class _MeshParser(flags.ArgumentParser):
    def parse(self, argument: Any) -> Any:
        return _Mesh(sharding.parse_mesh(argument)) if isinstance(argument, str) else argument


config_flags.register_flag_parser_for_type(_Mesh, _MeshParser())


def parse(config: Mapping[str, Any]) -> Config:
    """Validate a ``ConfigDict`` (or what :func:`to_dict` gave) into a :class:`Config`.

    Raises:
        ValueError: naming the key, its value and the remedy.
    """
    tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    method = dict(tree.pop("method", {}))
    name, targets = method.pop("name", None), method.pop("targets", None)
    if isinstance(tree.get("mesh"), str):
        tree["mesh"] = sharding.parse_mesh(tree["mesh"])
    if name not in TABLE:
        raise ValueError(f"config.method.name {name!r}; choose one of {sorted(TABLE)}")
    hint = tuple[str, ...]
    parsed = MethodConfig(
        name=name,
        targets=typed.checked(hint, targets, "config.method.targets"),
        settings=typed.build(TABLE[name], method, "config.method"),
    )
    result = typed.build(Config, tree, "config", method=parsed)
    bounds.check(result)
    for name in result.export:
        if name not in EXPORTS:
            raise ValueError(f"config.export has {name!r}; choose from {', '.join(EXPORTS)}")
    return result


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as JSON holds it; :func:`parse` reads it back."""
    tree = dataclasses.asdict(config)
    method = tree["method"]
    tree["method"] = {"name": method["name"], "targets": method["targets"], **method["settings"]}
    return tree


def differences(a: Any, b: Any, where: str = "config") -> list[str]:
    """``key: a's value -> b's value`` for each leaf in which two dictionaries differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = sorted(set(a) | set(b))
        return [row for k in keys for row in differences(a.get(k), b.get(k), f"{where}.{k}")]
    same = (list(a) if isinstance(a, tuple) else a) == (list(b) if isinstance(b, tuple) else b)
    return [] if same else [f"{where}: {a!r} -> {b!r}"]
