"""The file of answers: a line each, in order, that a killed command goes on with."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tera_jax import atomic

from ..config import differences
from ..training import kept


class AnswerFile:
    """Answers as JSON lines, and beside them what they depend on.

    The settings stand in ``<name>.settings.json``. Lines are written in the order of the requests
    and flushed; a last one that was cut off is taken away when the file is opened again.

    Args:
        file: of the answers.
        settings: what they depend on, as JSON has it.

    Raises:
        FileExistsError: when the file holds answers under other settings, or something else.
        FileNotFoundError: when its directory does not exist.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self._file, self._settings_file = file, file.with_name(f"{file.name}.settings.json")
        self._settings = dict(settings)
        if not file.parent.is_dir():
            raise FileNotFoundError(f"{file.parent} does not exist; make it, or choose --output")
        self.done = self._open()

    def _open(self) -> int:
        if not self._file.exists():
            return 0
        found = kept.read(self._settings_file)
        if found is None and self._file.stat().st_size == 0:
            return 0
        if found is None:
            raise FileExistsError(
                f"{self._file} is there, and no {self._settings_file.name} says what made it; "
                "choose another --output, or move it"
            )
        changed = differences(found, self._settings, "settings")
        if changed:
            raise FileExistsError(
                f"{self._file} holds answers under other settings: {'; '.join(changed)}. Choose "
                "another --output, or move it and its settings"
            )
        lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        whole: list[str] = []
        for line in lines:
            row = kept.line(line)
            if row is None or row.get("row") != len(whole):
                break
            whole.append(line)
        if len(whole) < len(lines):
            atomic.write_text(self._file, "".join(whole))
        return len(whole)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows as they come. Each has its index under ``row``, and they follow each other.

        Raises:
            OSError: when there is no room.
        """
        atomic.write_json(self._settings_file, self._settings)
        with self._file.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
            os.fsync(file.fileno())
