"""Where a checkpoint is: an HF directory, a GGUF file, or a name on the Hugging Face hub."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

# Weights and descriptions only: never code, never pickles.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
# Second copies of the weights, in their makers' own formats.
_UNWANTED = ["consolidated*", "original/*", "onnx/*"]


class Split(NamedTuple):
    """The files that a GGUF model is split into.

    Attributes:
        stem: the path of each before ``-00001-of-00002.gguf``.
        total: of parts.
    """

    stem: str
    total: int

    def paths(self) -> list[Path]:
        """Of all parts, in their order."""
        numbers = range(1, self.total + 1)
        return [Path(f"{self.stem}-{number:05}-of-{self.total:05}.gguf") for number in numbers]


def split_of(path: Path) -> Split | None:
    """What a file is a part of by its name; None where the name says nothing of the kind."""
    found = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", str(path))
    if found is None or not 1 <= int(found[2]) <= int(found[3]):
        return None
    return Split(found[1], int(found[3]))


def locate(path_or_name: str | os.PathLike[str]) -> Path:
    """A local directory with a ``config.json``, or a ``.gguf`` file.

    Args:
        path_or_name: an HF directory, a GGUF file or any part of a split one, or a directory with
            exactly one of these and no ``config.json``. Or a name on the hub such as
            ``HuggingFaceTB/SmolLM2-135M``, which is fetched into the hub's cache.

    Raises:
        FileNotFoundError: when there is no such path and the hub has it not or is out of reach.
        ValueError: for a file of another kind, or a directory with neither or several.
    """
    path = Path(path_or_name)
    if not path.exists():
        path = _fetch(str(path_or_name))
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(
                f"{path} is neither a directory nor a .gguf file; give the directory that holds "
                "config.json and *.safetensors (pickles such as .bin and .pt are never read)"
            )
        return path
    if (path / "config.json").is_file():
        return path
    found = sorted(path.glob("*.gguf"))
    splits = {split_of(file) for file in found}
    if len(found) != 1 and (len(splits) != 1 or None in splits):
        raise ValueError(
            f"{path} holds no config.json and {len(found)} .gguf files; give a Hugging Face "
            "directory, or one .gguf file or one part of it"
        )
    return found[0]


def _fetch(name: str) -> Path:
    cause: Exception | None = None
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        try:
            return Path(
                huggingface_hub.snapshot_download(
                    name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
                )
            )
        # Every error of the hub and of the network is an OSError, but for these two.
        except (OSError, HFValidationError, LocalEntryNotFoundError) as error:
            cause = error
    raise FileNotFoundError(
        f"the local path {name!r} does not exist, and no model of this name could be had from the "
        f"Hugging Face hub ({'not a valid name' if cause is None else type(cause).__name__}); "
        "check the path, or the network and HF_HUB_OFFLINE"
    ) from cause
