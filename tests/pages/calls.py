"""The commands of a block of shell, as bash splits them; none of them is started."""

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = (
    "python",
    ".venv/bin/python",
    "bash",
    "curl",
    "lm_eval",
    "make",
    "pip",
    "pre-commit",
    "srun",
    "tera-analyze",
    "tera-combine",
    "tera-evaluate",
    "tera-export",
    "tera-generate",
    "tera-many",
    "tera-params",
    "tera-report",
    "tera-train",
)
"""What a block may call; anything else is an error of its own."""
_MODULES = {"tera-train": "train.main", "tera-params": "train.params"}


@dataclass(frozen=True)
class Call:
    """One command.

    Attributes:
        words: the program and its arguments, after quotes, variables and globs.
    """

    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """As it could be typed."""
        return shlex.join(self.words)

    @property
    def module(self) -> str | None:
        """Of ``python -m``, also behind ``srun``, and of the installed scripts."""
        name = self.words[0]
        if name.startswith("tera-"):
            return _MODULES.get(name, name.replace("tera-", "train."))
        return self.words[self._start + 2] if self._is_python else None

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows the module, or the program."""
        return self.words[self._start + 3 :] if self._is_python else self.words[1:]

    @property
    def _start(self) -> int:
        return self.words.index("python") if self.words[0] == "srun" else 0

    @property
    def _is_python(self) -> bool:
        program, option, *_ = *self.words[self._start :], "", ""
        return program.endswith("python") and option == "-m"


def recorded(script: str, place: Path, **variables: str) -> list[Call]:
    """Let bash read a script in which every program only writes down how it was called.

    Args:
        script: a block of a page.
        place: where globs look.
        **variables: of the environment.

    Raises:
        ValueError: for what bash refuses, an unset variable, and a program that is not in
            :data:`PROGRAMS`.
    """
    bash = shutil.which("bash")
    assert bash is not None
    kept, wrote = os.pipe()
    functions = "".join(f'{name}() {{ record {name} "$@"; }}\n' for name in PROGRAMS)
    prelude = f'record() {{ printf \'%s\\0\' "$#" "$@" >&{wrote}; }}\n{functions}set -u\n'
    done = subprocess.run(
        [bash, "--norc", "-c", prelude + script],
        cwd=place,
        env={"PATH": "/nowhere", **variables},
        pass_fds=[wrote],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(wrote)
    with os.fdopen(kept) as file:
        words = file.read().split("\0")[:-1]
    if done.stderr:
        raise ValueError(done.stderr)
    calls = []
    while words:
        count = int(words[0])
        calls.append(Call(tuple(words[1 : count + 1])))
        words = words[count + 1 :]
    return calls
