r"""What PyTorch and PEFT do on the same shapes: tokens a second, memory, and time to start.

    python -m benchmarks.anchors --model=llama_2_7b --rows=8 --length=512

The base has random weights in bfloat16, made on the device; LoRA, VeRA or HiRA of PEFT is on the
query and value projections, its weights in float32. A step is the mean loss over the labels, its
gradient, and AdamW. One process measures every setting in turn and frees all of it.

``--arithmetic`` is that of the adapters: ``bfloat16`` is autocast, which the Trainer of
transformers turns on with ``bf16``; ``float32`` and ``tf32`` are PEFT without it. ``sdpa`` is the
attention that transformers chooses. Before torch 2.14 it has a mask in a compiled model, and so not
the flash kernel. ``causal`` is the same call without a mask: rows have no padding, or have it on
the right.
"""

import functools
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import peft
import torch
import transformers
from torch._dynamo.utils import counters
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks import rounds
from benchmarks.torch_llamas import llama_2_7b, tiny
from train import command

ARITHMETIC = ("bfloat16", "tf32", "float32")
ATTENTION = ("sdpa", "causal")
TARGETS = ["q_proj", "v_proj"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# transformers makes no mask for a name it does not know one of, and sdpa is then told is_causal.
transformers.AttentionInterface.register("causal", sdpa_attention_forward)


def _vera() -> peft.VeraConfig:
    config = peft.VeraConfig(r=256, projection_prng_key=0, target_modules=TARGETS)
    config.save_projection = False  # not above, where PEFT warns of what it means for reloading
    return config


ADAPTERS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(r=32, lora_alpha=64, target_modules=TARGETS),
    "vera": _vera,
    "hira": lambda: peft.HiraConfig(r=32, target_modules=TARGETS),
}


class Batch(NamedTuple):
    """One batch: labels are -100 where there is no loss, and a mask of None is all ones."""

    tokens_BL: np.ndarray
    labels_BL: np.ndarray
    mask_BL: np.ndarray | None = None

    @property
    def real(self) -> int:
        """Tokens that are not padding."""
        return self.tokens_BL.size if self.mask_BL is None else int(np.sum(self.mask_BL))

    def to_device(self) -> dict[str, torch.Tensor]:
        """The arguments of the model."""
        named = zip(("input_ids", "labels", "attention_mask"), self, strict=True)
        return {k: torch.tensor(v, device=DEVICE).long() for k, v in named if v is not None}


class Setting(NamedTuple):
    """What is measured: a key of ADAPTERS, and how it runs."""

    adapter: str
    compiled: bool = False
    arithmetic: str = "bfloat16"
    attention: str = "sdpa"
    remat: bool = False

    @property
    def name(self) -> str:
        """The words of a row."""
        mode = "compiled" if self.compiled else "eager"
        return f"{self.adapter} {mode} {self.arithmetic} {self.attention}{' remat' * self.remat}"


class Measurement(NamedTuple):
    """What was found. ``tokens_per_second`` has no padding in it; memory is 0 on a CPU."""

    name: str
    tokens_per_second: float = 0.0  # of real tokens, in the median round of timed steps
    step_seconds: float = math.nan  # the mean of that round
    peak_bytes: int = 0  # the most that torch had allocated in timed steps
    first_seconds: float = math.nan  # the first step, which compiles
    warmup_seconds: float = math.nan  # all steps before the timed ones
    base_loss: float = math.nan  # of the first batch, without an adapter
    first_loss: float = math.nan  # of the first step, on the first batch
    last_loss: float = math.nan  # of the last timed step, before its update
    trained: int = 0  # parameters
    graphs: int = 0  # that were compiled
    late: int = 0  # graphs of which in timed steps
    breaks: int = 0  # of graphs
    note: str = ""  # why there are no numbers


def random_batch(config: transformers.LlamaConfig, rows: int, length: int, seed: int = 0) -> Batch:
    """Random tokens, with a loss on each."""
    tokens_BL = np.random.default_rng(seed).integers(config.vocab_size, size=(rows, length))
    return Batch(tokens_BL, tokens_BL)


def make_base(config: transformers.LlamaConfig, setting: Setting, seed: int = 0) -> Any:
    """The base with random weights, made on the device in bfloat16."""
    torch.manual_seed(seed)
    with torch.device(DEVICE):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=setting.attention
        )
    return model.train()  # checkpointing asks for it; there is no dropout


def mean_loss(model: Any, setting: Setting, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch, of transformers."""
    with torch.autocast(DEVICE, torch.bfloat16, enabled=setting.arithmetic == "bfloat16"):
        return model(**batch, use_cache=False).loss


def _now() -> float:
    if DEVICE != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short, also where the compiler or cuBLAS says so in its own words."""
    words = f"{type(error).__name__} {error}".lower()
    found = any(word in words for word in ("outofmemory", "out of memory", "alloc_failed"))
    return found or (error is not None and _out_of_memory(error.__cause__ or error.__context__))


def _freeing(run: Callable[..., Measurement]) -> Callable[..., Measurement]:
    """Leave nothing of a run on the device, nor in torch, whether it ended well or not."""

    @functools.wraps(run)
    def measure(config: Any, batches: Any, setting: Setting, **options: Any) -> Measurement:
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if setting.arithmetic == "tf32" else "highest")
        counters.clear()
        try:
            return run(config, batches, setting, **options)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
        finally:  # by now the frames that held the model are gone
            torch.set_float32_matmul_precision(precision)
            torch.compiler.reset()
            gc.collect()
            torch.cuda.empty_cache()
        return Measurement(setting.name, note="out of memory")

    return measure


@_freeing
def measure(
    config: transformers.LlamaConfig,
    batches: Sequence[Batch],
    setting: Setting,
    *,
    steps: int = 20,
    warmup: int | None = None,
    learning_rate: float = 3e-3,
) -> Measurement:
    """Time rounds of ``steps`` training steps (:mod:`benchmarks.rounds`) after ``warmup`` others.

    They go round the batches in order, which are on the device before the clock starts; as in
    training, nothing waits for a step but the end of a round. ``warmup``, 1 or more, is by default
    3, or as many as there are batches, so that all shapes are compiled. Short memory is a note.

    Raises:
        ValueError: for ``causal`` attention and padding on the left.
        FloatingPointError: when a loss is not finite.
    """
    masks = [np.asarray(batch.mask_BL, np.int8) for batch in batches if batch.mask_BL is not None]
    if setting.attention == "causal" and any((np.diff(mask) > 0).any() for mask in masks):
        raise ValueError("causal attention would see the padding on the left; measure with sdpa")
    warmup = max(3, len(batches)) if warmup is None else warmup
    fed = [batch.to_device() for batch in batches]
    base = make_base(config, setting)
    with torch.no_grad():
        base_loss = float(mean_loss(base, setting, fed[0]))
    model = peft.get_peft_model(base, ADAPTERS[setting.adapter]())
    if setting.remat:  # without the hook of reentrant checkpoints, at which graphs would break
        base.activation_checkpointing_enable({"use_reentrant": False})
        base.disable_input_require_grads()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, fused=True)
    loss_of = torch.compile(mean_loss) if setting.compiled else mean_loss
    losses: list[torch.Tensor] = []

    def advance(count: int) -> float:
        """Seconds of ``count`` further steps."""
        start = _now()
        for _ in range(count):
            loss = loss_of(model, setting, fed[len(losses) % len(fed)])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        return _now() - start

    first = advance(1)
    before, early = advance(warmup - 1), counters["stats"]["unique_graphs"]
    if DEVICE != "cpu":
        torch.cuda.reset_peak_memory_stats()
    found = rounds.timed(advance, [batch.real for batch in batches], warmup, steps)
    graphs = counters["stats"]["unique_graphs"]
    values = torch.stack(losses).tolist()
    if not np.isfinite([base_loss, *values]).all():
        raise FloatingPointError(f"{setting.name}: losses {base_loss}, {values}")
    return Measurement(
        name=setting.name,
        tokens_per_second=found.tokens_per_second,
        step_seconds=found.step_seconds,
        peak_bytes=torch.cuda.max_memory_allocated(),
        first_seconds=first,
        warmup_seconds=first + before,
        base_loss=base_loss,
        first_loss=values[0],
        last_loss=values[-1],
        trained=sum(parameter.numel() for parameter in trained),
        graphs=graphs,
        late=graphs - early,
        breaks=sum(counters["graph_break"].values()),
    )


def check(found: Measurement) -> None:
    """Raise ValueError unless a row of one batch starts at the base, and its loss falls."""
    same = math.isclose(found.first_loss, found.base_loss, rel_tol=2e-3)  # compiled, in bfloat16
    if not found.note and not (same and found.last_loss < found.first_loss):
        raise ValueError(f"{found}: the loss starts elsewhere, or has not fallen at this rate")


def line(cells: Iterable[Any]) -> str:
    """A row of a table."""
    words = (f"{cell:,.3f}" if isinstance(cell, float) else f"{cell}" for cell in cells)
    return f"| {' | '.join(words)} |"


def main() -> None:
    """Measure, print a table, and check it."""
    parser = command.parser(main)
    models = {"llama_2_7b": llama_2_7b, "tiny": tiny}
    parser.add_argument("--model", choices=models, default="llama_2_7b")
    parser.add_argument("--adapters", nargs="+", choices=ADAPTERS, default=list(ADAPTERS))
    modes = {"eager": False, "compiled": True}
    parser.add_argument("--modes", nargs="+", choices=modes, default=list(modes))
    parser.add_argument("--arithmetic", nargs="+", choices=ARITHMETIC, default=["bfloat16"])
    parser.add_argument("--attention", nargs="+", choices=ATTENTION, default=["sdpa"])
    for name, default in {"--rows": 8, "--length": 512, "--steps": 20}.items():
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--remat", action="store_true", help="gradient checkpointing")
    args = parser.parse_args()
    config, found = models[args.model](), []
    batches = [random_batch(config, args.rows, args.length)]
    print(line(Measurement._fields), line("---" for _ in Measurement._fields), sep="\n")
    grid = itertools.product(args.adapters, args.modes, args.arithmetic, args.attention)
    for adapter, mode, arithmetic, attention in grid:
        setting = Setting(adapter, modes[mode], arithmetic, attention, args.remat)
        row = measure(config, batches, setting, steps=args.steps, learning_rate=args.learning_rate)
        found.append(row)
        print(line(row), flush=True)
    for row in found:
        check(row)


if __name__ == "__main__":
    command.run(main)
