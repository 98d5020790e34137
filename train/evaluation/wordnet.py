"""WordNet's dictionary files, as METEOR reads them for its synonyms."""

import io
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nltk
from nltk.corpus.reader.wordnet import WordNetCorpusReader

_PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
_WORDNET_FILES = tuple(
    name for part in _PARTS_OF_SPEECH for name in (f"index.{part}", f"data.{part}", f"{part}.exc")
)
_LEXICOGRAPHER_FILES = 45


def require_wordnet(wordnet: Path) -> None:
    """Raise ``FileNotFoundError`` when WordNet's files are not in ``wordnet``."""
    missing = [name for name in _WORDNET_FILES if not (wordnet / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{wordnet} lacks WordNet's {', '.join(missing)}; install Debian's wordnet-base "
            "(/usr/share/wordnet) or unpack nltk's corpora/wordnet, and name the directory in "
            "config.evaluate.wordnet"
        )


class _WordNet(WordNetCorpusReader):
    """nltk's reader, without what it opens for other purposes and Debian's package lacks."""

    def __init__(self, root: str, opened: ExitStack):
        self._opened = opened
        super().__init__(root, omw_reader=None)

    def open(self, file: str) -> Any:
        """A file; ``lexnames``, whose names METEOR never sees, is made up."""
        if file == "lexnames":
            return io.StringIO("".join(f"{i:02d} file{i} 0\n" for i in range(_LEXICOGRAPHER_FILES)))
        return self._opened.enter_context(super().open(file))

    def map_wn(self, version: str = "wordnet") -> None:
        """No map to the numbers of other languages' WordNets: it would need nltk's download."""


@contextmanager
def open_wordnet(wordnet: Path) -> Iterator[_WordNet]:
    """The reader; what it opened is closed at the end."""
    root = str(wordnet.resolve())
    before = [*nltk.data.path]
    # nltk opens files only below the directories that this list names.
    nltk.data.path.append(root)
    try:
        with ExitStack() as opened:
            with warnings.catch_warnings():
                # METEOR asks for English synonyms only.
                warnings.filterwarnings("ignore", "The multilingual functions are not available")
                found = _WordNet(root, opened)
            yield found
    finally:
        nltk.data.path[:] = before
