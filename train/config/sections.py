"""The sections of a configuration: a frozen dataclass each, which checks its own fields.

Errors begin with the name of the field; :func:`train.config.typed.build` puts the section before.
"""

import dataclasses
from typing import Literal

from tera_jax.methods import Method
from tera_jax.quantize import BLOCK

from .. import tasks
from .data import ColumnsConfig, DataConfig
from .limits import require_above_zero, require_at_least, require_seed
from .optim import OptimConfig

__all__ = [
    "ColumnsConfig",
    "DataConfig",
    "EvaluateConfig",
    "LoopConfig",
    "MeshConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimConfig",
]

LOGGERS = ("jsonl", "tensorboard", "wandb")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The base model.

    Attributes:
        path: a HF directory, a GGUF file, a directory that holds one, or a hub name.
        adapter: a directory of an adapter that training starts from, ours or PEFT's, in place of
            the method's first d; or None. Method, layers and frozen seed must be those of the run.
            The optimizer starts anew.
        dtype: of the weights and of the computation.
        remat: what the backward pass recomputes: ``none``, ``dots`` (all but the matmuls with
            weights) or ``full`` (each layer).
        unroll: train with the layers one after the other in place of a loop: faster steps, longer
            to compile. None does so on a GPU, unless ``remat`` is ``full``: a loop takes less
            memory.
        kept_layers: on a mesh with ``fsdp``, how many layers, from the last, are gathered once in a
            step and stay whole on each device for its backward pass: less communication, more
            memory. The others are gathered twice. A loop over layers keeps none.
        quantize: how the linear layers of the decoder are kept, to be read as ``dtype``: ``none``
            (as they are), ``int8``, ``int4`` or ``nf4``; or ``fp8``, which is multiplied as it is.
        block: consecutive inputs of a quantised layer that share a scale. Not for ``fp8``, which
            has one scale for each output.
        fp8_layouts: 1, or 2 to train with a second copy of the codes of ``fp8``, transposed. It
            takes 8 bits more a weight, and no step transposes. It is never written.
    """

    path: str
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Literal["none", "dots", "full"] = "dots"
    unroll: bool | None = None
    kept_layers: int = 0
    quantize: Literal["none", "int8", "int4", "nf4", "fp8"] = "none"
    block: int = BLOCK
    fp8_layouts: int = 1
    adapter: str | None = None

    def __post_init__(self) -> None:
        require_at_least(0, kept_layers=self.kept_layers)
        loops = not self.unroll if self.remat == "full" else self.unroll is False
        if self.kept_layers and loops:
            raise ValueError(
                f"kept_layers is {self.kept_layers}, but a loop over layers keeps none; set unroll "
                "to True, or leave kept_layers out"
            )
        if not 2 <= self.block <= 2**30 or self.block % 2:
            raise ValueError(f"block is {self.block}; it must be even, from 2 to {2**30}")
        if self.quantize == "fp8" and self.block != BLOCK:
            raise ValueError(
                f"block is {self.block}, but quantize 'fp8' has one scale for each output and no "
                "blocks; leave it out"
            )
        if self.fp8_layouts not in (1, 2):
            raise ValueError(f"fp8_layouts is {self.fp8_layouts}; choose 1 or 2")
        if self.fp8_layouts == 2 and self.quantize != "fp8":
            raise ValueError(
                f"fp8_layouts is 2, but quantize is {self.quantize!r}; set it to 'fp8', or leave "
                "fp8_layouts out"
            )


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Batches and cadence.

    Attributes:
        batch_size: records a step, over all devices; rows where ``data.packed_length`` is set.
        epochs: passes over the training records; ignored when ``steps`` is given.
        steps: optimizer steps; None takes ``epochs``.
        seed: of the order of the records.
        eval_every: steps between evaluations of the held-out loss. Each writes a checkpoint; the
            best and the last are kept.
        checkpoint_every: steps between further checkpoints, or None.
        log_every: steps between lines of the log.
        grad_accum_steps: parts of a batch that are computed one after the other, for less memory.
        patience: evaluations in a row without a better held-out loss after which the training ends;
            None trains to the last step. ``eval_every`` is their distance.
        min_delta: nats a token by which a loss must be below the best so far to be better.
        loggers: what gets the run's numbers: ``jsonl`` (``metrics.jsonl``, which is always among
            them), ``tensorboard`` and ``wandb`` (Weights & Biases, the extra ``wandb``).
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
    grad_accum_steps: int = 1
    max_hours: float | None = None
    requeue_status: int = 75
    patience: int | None = None
    min_delta: float = 0.0
    loggers: tuple[str, ...] = ("jsonl", "tensorboard")

    def __post_init__(self) -> None:
        require_at_least(
            1,
            patience=self.patience,
            batch_size=self.batch_size,
            steps=self.steps,
            eval_every=self.eval_every,
            checkpoint_every=self.checkpoint_every,
            log_every=self.log_every,
            grad_accum_steps=self.grad_accum_steps,
        )
        require_seed(seed=self.seed)
        require_above_zero(max_hours=self.max_hours, epochs=self.epochs)
        require_at_least(0, min_delta=self.min_delta)
        if self.min_delta and self.patience is None:
            raise ValueError(
                f"min_delta is {self.min_delta}, but patience is None, so that no loss ends the "
                "training; set patience, or leave min_delta out"
            )
        for name in self.loggers:
            if name not in LOGGERS:
                raise ValueError(f"loggers has {name!r}; choose from {', '.join(LOGGERS)}")
        if len({*self.loggers}) < len(self.loggers) or "jsonl" not in self.loggers:
            raise ValueError(
                f"loggers is {self.loggers}; name each once, and 'jsonl' among them, whose file "
                "resumption and reports read"
            )
        if self.epochs > 1e6:
            raise ValueError(f"epochs is {self.epochs}; it must be at most 1e6")
        if not 0 < self.requeue_status < 256:
            raise ValueError(
                f"requeue_status is {self.requeue_status}; an exit status is from 1 to 255"
            )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What is measured before and after training.

    Attributes:
        path: records whose answers are generated, or None to generate none.
        task: which they are; it says how answers are judged: a row of ``train.tasks.TASKS``;
            ``own`` for any file of prompts and answers.
        metrics: of the task ``own``: ``exact``, ``contains``, ``number``, ``choice``, ``rouge_l``,
            ``loss``, or a function of the user as ``module:function``. docs/evaluation.md says what
            each is.
        limit: at most so many of them, or None for all.
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
    metrics: tuple[str, ...] = ("exact",)
    limit: int | None = None
    batch_size: int = 32
    unroll: bool = False
    seed: int = 0
    wordnet: str = "/usr/share/wordnet"
    encoder: str = "roberta-large"

    def __post_init__(self) -> None:
        tasks.task(self.task)
        tasks.own.require_names(self.metrics)
        require_at_least(1, limit=self.limit, batch_size=self.batch_size)
        require_seed(seed=self.seed)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; their product is the number of devices used.

    A flag gives one of them, ``--config.mesh.fsdp=4``, or all: ``--config.mesh=data=2,fsdp=4``.

    Attributes:
        data: parts of a batch, each with all parameters.
        fsdp: parts of a batch, over which the parameters are split too.
        tensor: parts of each large matmul.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        require_at_least(1, data=self.data, fsdp=self.fsdp, tensor=self.tensor)


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """The method, the layers it adapts, and its own configuration.

    Attributes:
        name: a row of ``tera_jax.methods.TABLE``.
        targets: patterns of the layers that are adapted, such as ``q_proj`` or ``mlp/*``, or
            ``all-linear`` for every linear layer but the head.
        settings: the method's own fields, which in a file stand beside these two.
    """

    name: str
    targets: tuple[str, ...]
    settings: Method
