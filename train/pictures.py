"""What all pictures of the application need: matplotlib, and files that are the same each time."""

from pathlib import Path
from typing import Any

from tera_jax import atomic

_FORMATS = ("png", "svg")


def require() -> None:
    """Raise ``ImportError`` that says what to install, without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"figures need pip install 'tera-jax[analysis]' ({error})") from error


def save(figure: Any, directory: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; with a ``svg.hashsalt`` the bytes are the same each time.

    Args:
        figure: of matplotlib.
        directory: that is there.
        name: of the files, without an ending.

    Returns:
        The files.
    """
    files = [directory / f"{name}.{kind}" for kind in _FORMATS]
    for kind, file in zip(_FORMATS, files, strict=True):
        metadata = {"Date": None} if kind == "svg" else {}
        with atomic.replacing(file) as part:
            figure.savefig(part, format=kind, dpi=150, metadata=metadata)
    return files
