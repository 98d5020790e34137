"""Show what a file of records becomes, before anything is trained on it.

    python -m train.data mine.jsonl --model=<model> [--config=FILE] [--config.data.KEY=VALUE ...]

Prints what the file was taken for, and a table of what is in it and what of it is cut. Then it
prints the first record as the model sees it, with marks around the tokens that the loss is on. Of
the model it reads the tokenizer and the chat template alone.
"""

from collections.abc import Sequence

from absl import flags

from tera_jax.llama import load_tokenizer

from .. import command
from ..config import DataConfig, flag, parse
from .preparation import prepare


def main(argv: Sequence[str] | None = None) -> None:
    """Print what is known of a file."""
    parser = command.parser(main, "train.data")
    parser.add_argument("file", help="as config.data.path")
    parser.add_argument("--model", required=True, help="whose tokenizer it is")
    parser.add_argument("--config", default="sft", help="a recipe; by default sft")
    args, fields = parser.parse_known_args(argv)
    for field in fields:
        if not field.startswith(("--config.data.", "--noconfig.data.")):
            parser.error(f"unknown argument {field}; the fields are --config.data.KEY=VALUE")
    config = _config(args.config, args.file, args.model, fields)
    print("\n".join(prepare(config, load_tokenizer(args.model)).lines))


def _config(recipe: str, file: str, model: str, fields: Sequence[str]) -> DataConfig:
    """The section of the data of a recipe, with the fields of the command line."""
    values = flags.FlagValues()
    given = [f"--config={recipe}", f"--config.data.path={file}", f"--config.model.path={model}"]
    argv = ["train.data", *given, *fields]
    holder = flag.define("config", values, argv)
    values(argv)
    return parse(holder.value).data


if __name__ == "__main__":
    command.run(main)
