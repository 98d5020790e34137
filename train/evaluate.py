r"""Evaluate a trained run: held-out loss, and generated answers to test sets.

    python -m train.evaluate --workdir=runs/commonsense --data=dataset --tasks boolq piqa
    python -m train.evaluate --workdir=runs/convai2 --tasks convai2=dialogues.txt[900:]
    python -m train.evaluate --workdir=runs/quickstart
    python -m train.evaluate --workdir=runs/sft --file=questions.jsonl --metrics exact --compare

Without ``--tasks`` it is the run's ``evaluate.task`` on its ``evaluate.path``. ``--score=labels``
and ``--score=texts`` compare the likelihoods of the given choices instead of generating. ``--base``
evaluates the base under the run's settings, and ``--compare`` both, side by side.

``--file`` is any file of prompts and answers: a ``prompt`` or ``messages``, and an ``answer``, a
record. ``--metrics`` says how it is scored: exact, contains, number, choice, rouge_l, or a function
of your own as ``module:function``, whose code is then run.

Writes ``<workdir>/evaluation/<task>/``: ``answers.jsonl``, a line for each question, and
``summary.json``. An evaluation that was killed goes on where it stopped.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from . import command, data, tasks
from .config import Config, parse
from .data import records
from .evaluation import answers, comparison, questions
from .evaluation.measure import SCORES, load_tests, measure, table
from .training import distributed
from .training import run as runs
from .training.data_identity import require_same_data
from .training.workdir import saved_config


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate the best checkpoint of a run."""
    parser = command.parser(main)
    parser.add_argument("--workdir", type=Path, required=True, help="the directory of a run")
    parser.add_argument("--tasks", nargs="+", help="names of test sets, or NAME=FILE")
    parser.add_argument("--data", default=".", help="directory with <task>/test.json")
    parser.add_argument("--file", help="a file of prompts and answers, in place of --tasks")
    parser.add_argument("--metrics", nargs="+", help="of --file; by default exact")
    parser.add_argument("--limit", type=int, help="at most so many questions of each")
    parser.add_argument("--score", choices=SCORES, default="generate", help="see above")
    parser.add_argument("--base", action="store_true", help="the base, without the adapter")
    parser.add_argument("--compare", action="store_true", help="the base and the tuned model")
    parser.add_argument("--output", type=Path, help="by default <workdir>/evaluation")
    parser.add_argument("--batch-size", type=int, help="prompts at once; by default the run's")
    parser.add_argument("--num-beams", type=int, help="by default the run's")
    parser.add_argument("--max-new-tokens", type=int, help="by default the run's")
    parser.add_argument("--mesh", help="as data=2,fsdp=4; by default the run's")
    parser.add_argument("--wordnet", help="WordNet's dictionary; by default the run's")
    parser.add_argument("--encoder", help="BERTScore's encoder; by default the run's")
    args = parser.parse_args(argv)

    distributed.start()
    config = parse(saved_config(args.workdir, args.mesh))
    _require_together(args)
    config = _changed(config, args)
    if args.file:
        tests = load_tests(config.evaluate, config.data)
    elif args.tasks:
        files = questions.find(args.data, args.tasks)
        own = (config.evaluate.limit, config.evaluate.metrics)
        tests = {t: questions.load(file, t, config.data, *own) for t, file in files.items()}
    else:
        tests = load_tests(config.evaluate, config.data)
    if args.score == "generate":
        answers.require(tests, config.evaluate)
    sources = records.sources(config.data)
    identities = records.identities(sources, config.data)
    distributed.on_main_process(lambda: require_same_data(args.workdir, identities))
    _, held_out = records.split(config.data, sources)
    run = runs.build(config, args.workdir, identities=identities)
    place = [*sources.values()][-1].place
    valid = data.tokenize(held_out, run.tokenizer, config.data, run.virtual_tokens, place=place)
    columns, places = {}, []
    for base in (True, False) if args.compare else (args.base,):
        step, d = (0, runs.init_d(run)) if base else runs.restore_best(run, args.workdir)
        output = _output(args, base)
        with jax.set_mesh(run.mesh):
            scores = measure(run, step, d, output, valid, tests, args.score)
        columns["base" if base else f"step {step}"] = scores
        places.append(output)
    distributed.log(table(columns))
    distributed.log(f"written to {', '.join(map(str, places))}")
    if args.compare and distributed.is_main_process():
        for task in tests:
            file = comparison.write(*(place / task for place in places))
            distributed.log(f"compared in {file}")


def _require_together(args: argparse.Namespace) -> None:
    """Raise ``ValueError`` for flags that do not go together."""
    if args.file and (args.tasks or args.score != "generate"):
        raise ValueError("--file is scored by --metrics; leave out --tasks and --score")
    if args.metrics and not args.file:
        raise ValueError("--metrics is for --file; name the file of prompts and answers")
    if args.compare and (args.base or args.output):
        raise ValueError("--compare writes both evaluations; leave out --base and --output")
    if args.compare and args.score != "generate":
        raise ValueError("--compare is of generated answers; leave out --score")


def _changed(config: Config, args: argparse.Namespace) -> Config:
    """The run's configuration, with what the flags change."""
    names = ("num_beams", "max_new_tokens")
    decoding = {name: getattr(args, name) for name in names if getattr(args, name)}
    given = {key: getattr(args, key) for key in ("batch_size", "limit", "wordnet", "encoder")}
    chosen = {key: value for key, value in given.items() if value is not None}
    if args.file:
        chosen |= {"path": args.file, "task": tasks.own.NAME}
        chosen |= {"metrics": tuple(args.metrics or ("exact",))}
    return dataclasses.replace(
        config,
        decoding=dataclasses.replace(config.decoding, **decoding),
        evaluate=dataclasses.replace(config.evaluate, **chosen),
    )


def _output(args: argparse.Namespace, base: bool) -> Path:
    return args.output or args.workdir / ("evaluation-base" if base else "evaluation")


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
