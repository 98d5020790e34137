"""``python -m train.params``."""

from .. import command
from .count import main

if __name__ == "__main__":
    command.run(main)
