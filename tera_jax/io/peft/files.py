"""The files of a PEFT adapter directory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

CONFIG = "adapter_config.json"
ARRAYS = "adapter_model.safetensors"


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration, and the arrays by PEFT's names.

    Raises:
        FileNotFoundError: when one of the two files is missing.
        ValueError: when one is damaged.
    """
    for file in (CONFIG, ARRAYS):
        if not (path / file).is_file():
            raise FileNotFoundError(f"{path / file} does not exist; name a PEFT adapter directory")
    try:
        return json.loads((path / CONFIG).read_text()), load_file(path / ARRAYS)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); save the adapter again") from None
