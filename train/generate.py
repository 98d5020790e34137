r"""Answer prompts with a tuned model, or its base.

    python -m train.generate --workdir=runs/sft --prompt="Name three colours."
    python -m train.generate --workdir=runs/sft --prompts=questions.jsonl --output=answers.jsonl
    python -m train.generate --workdir=runs/sft --chat
    python -m train.generate --adapter=adapter --model=path/to/base --prompt="Gravity is" --raw
    python -m train.generate --model=path/to/base --chat

A run answers with its best checkpoint. ``--adapter`` takes a directory of train.export or of PEFT.
Prompts are made by the template that the run was trained with where that is a named one, else by
the tokenizer's chat template, where it has one; ``--raw`` completes texts as they are.

``--prompts`` is a .txt file, a prompt a line, or a .jsonl file of objects with ``prompt`` or
``messages``. ``--output`` gets a line for each, in order; the same command goes on where it was
killed. How tokens are chosen follows from the flags, and else from the base's
``generation_config.json``; any of ``--temperature``, ``--top-p`` and ``--top-k`` draws them, and
``--temperature=0`` takes the most likely.
"""

import argparse
import dataclasses
import hashlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from tera_jax.llama import GenerationConfig
from tera_jax.ops import dispatch

from . import command
from .generation import requests, sampling, source
from .generation.chat import chat
from .generation.output import AnswerFile
from .generation.source import Source
from .generation.speaker import Speaker
from .generation.style import style_of


def main(argv: Sequence[str] | None = None) -> None:
    """Read what is asked, load the model, answer."""
    args = _parser().parse_args(argv)
    try:
        _answer(args)
    except KeyboardInterrupt:
        _note("\nstopped" + ("; the same command goes on" if args.output else ""))
        sys.exit(128 + signal.SIGINT)


def _answer(args: argparse.Namespace) -> None:
    asked = _asked(args)
    found = _source(args)
    config, unused = _decoding(args, found.base)
    records = None if found.config is None else found.config.data
    style = style_of(found.tokenizer, records, args.raw)
    ids = requests.encoded(asked, style)
    requests.require_room(asked, ids, found.context)
    output = None
    if args.output is not None:
        settings = _settings(args, found, config, style.name, ids)
        output = AnswerFile(args.output, settings)
        if output.done == len(ids):
            _note(f"{args.output} has all {len(ids)} answers already")
            return
    if unused:
        _note(f"generation_config.json sets {', '.join(unused)}: not used here")
    _note(f"{found.name}; prompts: {style.name}")
    loaded = found.load()
    speaker = Speaker(
        loaded.model, loaded.variables, loaded.adapter, found.tokenizer, style, config, args.seed
    )
    with jax.set_mesh(loaded.mesh):
        if args.chat:
            _chat(speaker)
        elif output is not None:
            answers = speaker.answers(ids, args.batch_size, output.done)
            output.write(_rows(asked, answers, output.done))
            _note(f"{len(ids) - output.done} answers written to {args.output}")
        else:
            _print(speaker, asked, ids)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(main)
    parser.add_argument("--workdir", type=Path, help="the directory of a run")
    parser.add_argument("--adapter", type=Path, help="an exported adapter, or PEFT's")
    parser.add_argument("--model", help="the base: an HF directory, a GGUF file or a hub name")
    parser.add_argument("--prompt", action="append", help="a text; may be given several times")
    parser.add_argument("--prompts", type=Path, help="a file of prompts: .txt or .jsonl")
    parser.add_argument("--chat", action="store_true", help="talk in the terminal")
    parser.add_argument("--output", type=Path, help="a .jsonl file for the answers")
    parser.add_argument("--raw", action="store_true", help="complete texts, without a template")
    parser.add_argument("--max-new-tokens", type=int, help=f"of an answer; {sampling.NEW_TOKENS}")
    parser.add_argument("--temperature", type=float, help="of the draw; 0 is greedy")
    parser.add_argument("--top-p", type=float, help="draw from tokens of this probability")
    parser.add_argument("--top-k", type=int, help="draw from so many tokens; 0 for all")
    parser.add_argument("--repetition-penalty", type=float, help="1 is none")
    parser.add_argument("--num-beams", type=int, help="beam search, without streaming")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--batch-size", type=int, default=8, help="prompts of a file at once")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of a base that is no run's"
    )
    kinds = ("none", "int8", "int4", "nf4", "fp8")
    parser.add_argument("--quantize", choices=kinds, default="none", help="likewise")
    parser.add_argument("--mesh", help="as data=1,fsdp=4")
    return parser


def _asked(args: argparse.Namespace) -> list[tuple[str, Any]]:
    """The requests, each with the name that errors give it.

    Raises:
        ValueError: for flags that do not go together.
    """
    ways = {"--prompt": args.prompt, "--prompts": args.prompts, "--chat": args.chat}
    given = [name for name, value in ways.items() if value]
    if len(given) != 1:
        raise ValueError(
            f"{' and '.join(given) or 'nothing'} was given; give one of {', '.join(ways)}"
        )
    if args.workdir and (args.adapter or args.model):
        raise ValueError("--workdir has its own model; leave out --adapter and --model")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size is {args.batch_size}; it must be at least 1")
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed is {args.seed}; a seed is from 0 to {2**32 - 1}")
    if args.chat:
        if args.output:
            raise ValueError("--output is for --prompts; leave it out in a chat")
        return []
    if args.prompts is None:
        return [(f"--prompt {number}", {"prompt": x}) for number, x in enumerate(args.prompt, 1)]
    if args.output is None:
        raise ValueError("--prompts needs --output=FILE.jsonl, where the answers go")
    return requests.read(args.prompts)


def _source(args: argparse.Namespace) -> Source:
    if args.workdir is not None:
        given = {"--dtype": args.dtype, "--quantize": args.quantize != "none"}
        for name in (name for name, value in given.items() if value):
            raise ValueError(f"{name} is for --model; a run has its own")
        return source.of_run(args.workdir, args.mesh)
    dtype = args.dtype or ("bfloat16" if dispatch.on_gpu() else "float32")
    return source.of_files(args.model, args.adapter, dtype, args.quantize, args.mesh or "")


def _decoding(args: argparse.Namespace, base: str) -> tuple[GenerationConfig, tuple[str, ...]]:
    """How tokens are chosen, and what the base's file asks for in vain."""
    names = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "num_beams")
    return sampling.decoding(base, {name: getattr(args, name) for name in names})


def _settings(
    args: argparse.Namespace,
    found: Source,
    config: GenerationConfig,
    style: str,
    ids: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """What the answers depend on, to the bit."""
    prompts = hashlib.sha256(json.dumps([*ids]).encode()).hexdigest()[:16]
    return {
        **found.identity,
        "template": style,
        "prompts": {"count": len(ids), "tokens": prompts},
        "decoding": dataclasses.asdict(config),
        "seed": args.seed,
        "batch_size": args.batch_size,
    }


def _rows(
    asked: Sequence[tuple[str, Any]], answers: Iterator[str], start: int
) -> Iterator[dict[str, Any]]:
    for row, answer in enumerate(answers, start):
        request = {key: x for key, x in asked[row][1].items() if key not in ("row", "answer")}
        yield {"row": row, **request, "answer": answer}


def _print(speaker: Speaker, asked: Sequence[tuple[str, Any]], ids: Sequence[Any]) -> None:
    """The answers as they are made; below its prompt each, where there are several."""
    for (_, request), prompt in zip(asked, ids, strict=True):
        if len(asked) > 1:
            print(f"> {request['prompt']}")
        for piece in speaker.pieces(prompt):
            print(piece, end="", flush=True)
        print("\n" * (len(asked) > 1), flush=True)


def _chat(speaker: Speaker) -> None:
    if sys.stdin.isatty():
        import readline  # noqa: F401 - gives input() its line editing and history
    chat(speaker)


def _note(text: str) -> None:
    """Aside from the answers."""
    print(text, file=sys.stderr, flush=True)


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
