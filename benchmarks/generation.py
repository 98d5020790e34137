r"""Generation beside transformers: the same tokens, and how fast.

    python -m benchmarks.generation --model=SmolLM2-135M-Instruct.gguf --data=commonsense \
        --prompts=1000 --batches 128 256 512 --dtype=float32

``--data`` is a directory with a <task>/test.json for each of the eight commonsense tasks; the
prompts are spread over them, in HiRA's template. For every setting of the decoder both libraries
answer all prompts, in the order of their lengths, at each batch size; a pass before the clock
starts compiles here and warms up there. The table has the best of each. transformers runs eagerly
with its own best attention; its generation has no compiled beam search.

With ``--quantize`` our base is kept in that kind, and transformers decodes the weights that it
stands for.

Equal means that all tokens of an answer are. In float32 both libraries multiply at full precision;
in bfloat16 ties are many and answers part.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from benchmarks.profile import profiled, report
from configs.commonsense import get_config
from tera_jax import quantize, sharding
from tera_jax.llama import GenerationConfig, load_pretrained, load_tokenizer, save_pretrained
from tera_jax.llama.checkpoint import special_tokens
from tera_jax.llama.decode.generate import left_pad
from tera_jax.quantize import KINDS
from train import command, data
from train.config import parse
from train.data import records
from train.evaluation.generation import Generator
from train.tasks.commonsense import LABELS
from train.training.checkpoint import Meta
from train.training.run import Run, make_adapter

SETTINGS = {
    "greedy": GenerationConfig(max_new_tokens=16),
    "4 beams": GenerationConfig(max_new_tokens=16, num_beams=4),
    "4 beams, penalties": GenerationConfig(
        max_new_tokens=16, num_beams=4, length_penalty=0.9, no_repeat_ngram_size=4
    ),
}

Answers = list[list[int]]
Decode = Callable[[Sequence[Sequence[int]], GenerationConfig, int], Answers]


class Timing(NamedTuple):
    """The best batch size, its prompts a second, and the answers."""

    batch: int
    rate: float
    answers: Answers


def load_prompts(directory: Path, count: int, tokenizer: Any, config: Any) -> list[list[int]]:
    """Token ids of ``count`` prompts, from the start of every test set in turn."""
    each = -(-count // len(LABELS))
    rows = [
        list(records.load(f"{directory / name / 'test.json'}[:{each}]", answered=False))
        for name in LABELS
    ]
    mixed = [row for together in zip(*rows, strict=True) for row in together][:count]
    return data.encode_prompts(mixed, tokenizer, config, inference=True)


def ours(
    path: str, dtype: str, tokenizer: Any, unroll: bool, kind: str = "none"
) -> tuple[Decode, Any, Any, Any]:
    """Our decoder, with the model, its weights and the run's configuration."""
    mesh = sharding.make_mesh(1, 1, 1)
    model, params = load_pretrained(path, dtype=jnp.dtype(dtype), mesh=mesh, quantize=kind)
    config = get_config("lora")
    config.model.path, config.data.path = path, "-"
    config.method.rank = 1
    config.evaluate.unroll = unroll
    adapter = make_adapter(parse(config), model)
    d = jax.jit(adapter.init_d)(params, {})

    def decode(prompts: Sequence[Sequence[int]], decoding: GenerationConfig, batch: int) -> Answers:
        found = dict(generator(decoding, batch)(prompts))
        return [found[row] for row in range(len(prompts))]

    @functools.cache
    def generator(decoding: GenerationConfig, batch: int) -> Generator:
        config.evaluate.batch_size = batch
        meta = Meta(0, "", "", {})  # of checkpoints, which there are none of
        run = Run(parse(config), mesh, model, params, tokenizer, adapter, {}, meta)
        return Generator(run, d, decoding)

    return decode, model, params, parse(config)


def theirs(directory: str, dtype: str, eos_ids: Sequence[int]) -> Decode:
    """The decoder of transformers."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    )
    model.to(device)

    @torch.inference_mode()
    def decode(prompts: Sequence[Sequence[int]], decoding: GenerationConfig, batch: int) -> Answers:
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        found: dict[int, list[int]] = {}
        for start in range(0, len(order), batch):
            chunk = order[start : start + batch]
            tokens_BL, mask_BL = left_pad([prompts[row] for row in chunk], 0, multiple=1)
            out = model.generate(
                torch.tensor(tokens_BL, dtype=torch.long, device=device),
                attention_mask=torch.tensor(mask_BL, dtype=torch.long, device=device),
                do_sample=False,
                max_new_tokens=decoding.max_new_tokens,
                num_beams=decoding.num_beams,
                length_penalty=decoding.length_penalty,
                no_repeat_ngram_size=decoding.no_repeat_ngram_size,
                eos_token_id=[*eos_ids],
                pad_token_id=eos_ids[0],
            )
            new = out[:, tokens_BL.shape[1] :].tolist()
            for row, tokens in zip(chunk, new, strict=True):
                found[row] = [*itertools.takewhile(lambda id_: id_ not in eos_ids, tokens)]
        return [found[row] for row in range(len(prompts))]

    return decode


def best(
    decode: Decode,
    prompts: Sequence[Sequence[int]],
    decoding: GenerationConfig,
    batches: Sequence[int],
) -> Timing:
    """The fastest batch size, each measured on all prompts after a pass over as many shapes."""
    found = []
    for batch in batches:
        try:
            decode(prompts, decoding, batch)
            start = time.perf_counter()
            answers = decode(prompts, decoding, batch)
        except torch.OutOfMemoryError:
            print(f"  batch {batch}: out of memory", flush=True)
            continue
        found.append(Timing(batch, len(prompts) / (time.perf_counter() - start), answers))
        print(f"  batch {batch}: {found[-1].rate:.1f} prompts/s", flush=True)
    return max(found, key=lambda timed: timed.rate)


def main() -> None:
    """Measure and print a table."""
    parser = command.parser(main)
    parser.add_argument("--model", required=True, help="a model that train.main reads")
    parser.add_argument("--data", type=Path, required=True, help="directory of the test sets")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--own-batches", type=int, nargs="+", help="by default the same")
    parser.add_argument("--loop", action="store_true", help="over our layers, not unrolled")
    parser.add_argument("--profile", action="store_true", help="the kernels of our last pass")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--quantize", choices=["none", *KINDS], default="none", help="our base")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    args = parser.parse_args()

    jax.config.update("jax_default_matmul_precision", "highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    tokenizer = load_tokenizer(args.model)
    mine, model, params, config = ours(
        args.model, args.dtype, tokenizer, not args.loop, args.quantize
    )
    prompts = load_prompts(args.data, args.prompts, tokenizer, config.data)
    lengths = np.array([len(prompt) for prompt in prompts])
    print(f"{len(prompts)} prompts of {lengths.mean():.0f} tokens ({lengths.max()} at most)")
    lines = ["| decoder | transformers (batch) | tera-jax (batch) | ratio | equal |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    with TemporaryDirectory() as directory, jax.set_mesh(sharding.make_mesh(1, 1, 1)):
        # With transformers, a quantised base is the plain one that it stands for.
        save_pretrained(model, quantize.dequantize(params), Path(directory) / "hf", tokenizer)
        other = theirs(
            f"{directory}/hf", args.dtype, special_tokens.eos_ids(model.config, tokenizer)
        )
        for name in args.settings:
            print(f"{name}, transformers", flush=True)
            a = best(other, prompts, SETTINGS[name], args.batches)
            torch.cuda.empty_cache()
            print(f"{name}, tera-jax", flush=True)
            b = best(mine, prompts, SETTINGS[name], args.own_batches or args.batches)
            if args.profile:
                again = functools.partial(mine, prompts, SETTINGS[name], b.batch)
                print(*report(profiled(again)), sep="\n", flush=True)
            equal = sum(x == y for x, y in zip(a.answers, b.answers, strict=True))
            lines.append(
                f"| {name} | {a.rate:.1f}/s ({a.batch}) | {b.rate:.1f}/s ({b.batch}) "
                f"| {b.rate / a.rate:.2f} | {equal} of {len(prompts)} |"
            )
    print("\n".join(lines))


if __name__ == "__main__":
    command.run(main)
