"""Merged weights as an Orbax checkpoint."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from tera_jax import trees
from tera_jax.atomic import write_json
from tera_jax.disk import require_equal, write_checked


def save_orbax(directory: str | os.PathLike[str], params: Any, config: Mapping[str, Any]) -> Path:
    """Write ``params`` as an Orbax checkpoint and compare what it restores, bit for bit.

    Args:
        directory: absent or empty.
        params: merged weights, sharded or not.
        config: of the model, written beside them as ``config.json``.

    Raises:
        FileExistsError: when the directory is not empty.
        ValueError: when an array has NaN or infinity.
    """
    trees.require_finite(params, "the weights")

    def write(path: Path) -> None:
        write_json(path / "config.json", config)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path.absolute() / "params", params)

    return write_checked(
        directory, write, lambda path: require_equal(load_orbax(path, params), params, path)
    )


def load_orbax(directory: str | os.PathLike[str], params: Any) -> Any:
    """Restore what :func:`save_orbax` wrote, laid out and typed like ``params``.

    Args:
        directory: that was written.
        params: arrays, or ``jax.ShapeDtypeStruct`` with shardings.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(
            Path(directory).absolute() / "params",
            jax.tree.map(ocp.utils.to_shape_dtype_struct, params),
        )
