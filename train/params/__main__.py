"""``python -m train.params``."""

from .count import cli

if __name__ == "__main__":
    cli()
