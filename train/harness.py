"""Evaluate a trained run on tasks of lm-evaluation-harness (EleutherAI).

    python -m train.harness --workdir=runs/quickstart --tasks=arc_easy,piqa --output=harness.json

Texts are tokenised, cut and scored as the harness does for its own ``hf`` model, so that the scores
are those of the merged export. A method that cannot be merged is evaluated as it is. Code that a
checkpoint brings is never run. Needs ``pip install 'tera-jax[evaluate]'``.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tera_jax import json_files
from tera_jax.atomic import write_text

from . import command


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate the best checkpoint of a run."""
    parser = command.parser(main)
    parser.add_argument("--workdir", type=Path, required=True, help="the directory of a run")
    parser.add_argument("--tasks", required=True, help="names of the harness, with commas between")
    parser.add_argument("--include_path", type=Path, metavar="DIR", help="more tasks, as YAML")
    parser.add_argument("--output", type=Path, required=True, help="a JSON file that is not there")
    parser.add_argument("--limit", type=float, help="at most so many examples of a task")
    parser.add_argument("--num_fewshot", type=int, help="examples in the prompt")
    parser.add_argument("--batch_size", type=int, help="by default the run's evaluate.batch_size")
    args = parser.parse_args(argv)
    if args.output.exists():
        raise FileExistsError(f"{args.output} exists; remove it or choose another --output")

    # Here, since the harness takes seconds to import, and is an extra.
    from .evaluation import lm_eval_model
    from .evaluation.lm_eval_model import utils

    model = lm_eval_model.TeraLM(args.workdir, batch_size=args.batch_size)
    results = lm_eval_model.evaluate(
        model,
        args.tasks.split(","),
        args.include_path,
        limit=args.limit,
        num_fewshot=args.num_fewshot,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(results, default=utils.handle_non_serializable))
    # The harness gives NaN where it has no number, such as the standard error of one example.
    text = json.dumps(json_files.finite(plain), indent=2, allow_nan=False)
    write_text(args.output, text + "\n")
    print(utils.make_table(results))
    if results.get("groups"):
        print(utils.make_table(results, "groups"))
    print(f"written to {args.output}")


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
