"""The NVIDIA GPUs of this host, without a question to JAX."""

import os
import re
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable of the environment that says which ones a process sees."""


def found() -> list[str]:
    """The NVIDIA GPUs of this host, as their numbers; JAX is not asked, for it would take them."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    names = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((match[1] for match in names if match), key=int)
