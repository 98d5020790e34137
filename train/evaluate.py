r"""Evaluate a trained run: held-out loss, and generated answers to test sets.

    python -m train.evaluate --workdir=runs/commonsense --data=dataset --tasks boolq piqa
    python -m train.evaluate --workdir=runs/convai2 --tasks convai2=dialogues.txt[900:]
    python -m train.evaluate --workdir=runs/quickstart

Without ``--tasks`` it is the run's ``evaluate.task`` on its ``evaluate.path``. ``--score=labels``
and ``--score=texts`` compare the likelihoods of the given choices instead of generating. ``--base``
evaluates the base under the run's settings.

Writes ``<workdir>/evaluation/<task>/``: ``answers.jsonl``, a line for each question, and
``summary.json``. An evaluation that was killed goes on where it stopped.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from . import command, data
from .config import parse
from .data import records
from .evaluation import answers, questions
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
    parser.add_argument("--limit", type=int, help="at most so many questions of each")
    parser.add_argument("--score", choices=SCORES, default="generate", help="see above")
    parser.add_argument("--base", action="store_true", help="the base, without the adapter")
    parser.add_argument("--output", type=Path, help="by default <workdir>/evaluation")
    parser.add_argument("--batch-size", type=int, help="prompts at once; by default the run's")
    parser.add_argument("--num-beams", type=int, help="by default the run's")
    parser.add_argument("--mesh", help="as data=2,fsdp=4; by default the run's")
    parser.add_argument("--wordnet", help="WordNet's dictionary; by default the run's")
    parser.add_argument("--encoder", help="BERTScore's encoder; by default the run's")
    args = parser.parse_args(argv)

    distributed.start()
    config = parse(saved_config(args.workdir, args.mesh))
    if args.num_beams:
        decoding = dataclasses.replace(config.decoding, num_beams=args.num_beams)
        config = dataclasses.replace(config, decoding=decoding)
    given = {key: getattr(args, key) for key in ("batch_size", "limit", "wordnet", "encoder")}
    chosen = {key: value for key, value in given.items() if value is not None}
    config = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, **chosen))
    if args.tasks:
        files = questions.find(args.data, args.tasks)
        limit = config.evaluate.limit
        tests = {t: questions.load(file, t, config.data, limit) for t, file in files.items()}
    else:
        tests = load_tests(config.evaluate, config.data)
    if args.score == "generate":
        answers.require(tests, config.evaluate)
    sources = records.sources(config.data)
    identities = records.identities(sources, config.data)
    distributed.on_main_process(lambda: require_same_data(args.workdir, identities))
    _, held_out = records.split(config.data, sources)
    run = runs.build(config, args.workdir, identities=identities)
    if args.base:
        step, d = 0, runs.init_d(run)
    else:
        step, d = runs.restore_best(run, args.workdir)
    output = args.output or args.workdir / ("evaluation-base" if args.base else "evaluation")
    source = [*sources.values()][-1]
    valid = data.tokenize(
        held_out, run.tokenizer, config.data, run.virtual_tokens, place=source.place
    )
    with jax.set_mesh(run.mesh):
        scores = measure(run, step, d, output, valid, tests, args.score)
    distributed.log(table({"base" if args.base else f"step {step}": scores}))
    distributed.log(f"written to {output}")


if __name__ == "__main__":
    command.run(main)
