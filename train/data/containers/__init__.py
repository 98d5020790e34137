"""What records come in, read row by row."""

from .paths import Row, parts, rows

__all__ = ["Row", "parts", "rows"]
