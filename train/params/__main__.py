"""``python -m train.params``."""

from .count import main

if __name__ == "__main__":
    main()
