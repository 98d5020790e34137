"""Metrics of generated text, each by its library's own code; ConvAI2 is scored by these.

The libraries come with ``pip install tera-jax[evaluate]`` and take seconds to import. Nothing is
downloaded but, where it is named so, the encoder of BERTScore by transformers.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import nltk
import sacrebleu
from bert_score import BERTScorer
from bert_score.utils import model2layers
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktSentenceTokenizer
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoConfig, GPT2Tokenizer, RobertaTokenizer

_PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
_WORDNET_FILES = tuple(
    name for part in _PARTS_OF_SPEECH for name in (f"index.{part}", f"data.{part}", f"{part}.exc")
)
_LEXICOGRAPHER_FILES = 45
_NO_LIMIT = 10**9


class Metrics(NamedTuple):
    """The six columns of the TeRA paper's Table 3, as fractions in 0..1."""

    bleu: float
    rouge_l: float
    meteor: float
    bertscore_f1: float
    bertscore_recall: float
    bertscore_precision: float

    @property
    def average(self) -> float:
        """The paper's Average: the mean of the six."""
        return fmean(self)


class BertScore(NamedTuple):
    """Means over the outputs, as fractions in 0..1."""

    f1: float
    recall: float
    precision: float


def require(wordnet: Path, encoder: str) -> None:
    """Check what METEOR and BERTScore need, before any long work.

    Raises:
        FileNotFoundError: when WordNet's files are not in ``wordnet``, or ``encoder`` is neither a
            directory with a ``config.json`` nor in the Hugging Face cache or hub.
        ValueError: when the encoder's configuration is not one that BERTScore can take.
    """
    _require_wordnet(wordnet)
    _encoder_config(encoder)


def score(
    outputs: Sequence[str], references: Sequence[Sequence[str]], *, wordnet: Path, encoder: str
) -> Metrics:
    """All metrics of generated texts.

    Args:
        outputs: the generated texts; empty ones count.
        references: for each output one reference or more.
        wordnet: see :func:`meteor`.
        encoder: see :func:`bert_score`.

    Raises:
        FileNotFoundError: as :func:`require` does.
        ValueError: when an output has no reference or there is no output.
    """
    similarity = bert_score(outputs, references, encoder)
    return Metrics(
        bleu(outputs, references),
        rouge_l(outputs, references),
        meteor(outputs, references, wordnet),
        similarity.f1,
        similarity.recall,
        similarity.precision,
    )


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU of 1- to 4-grams without smoothing, by sacrebleu with its tokenizer 13a.

    It equals the metric ``bleu`` of Hugging Face's ``evaluate`` where each output has one
    reference. With several, the brevity penalty takes the reference whose length is closest, as
    Papineni et al. (2002) do, and ``evaluate`` takes the shortest.

    Raises:
        ValueError: when an output has no reference or there is no output.

    Example:
        >>> bleu(["i like to ski ."], [["i like to ski ."]])
        1.0
    """
    _check(outputs, references)
    most = max(map(len, references))
    # sacrebleu wants a list for each rank of reference, with None where an output has fewer.
    columns = [
        [texts[rank] if rank < len(texts) else None for texts in references] for rank in range(most)
    ]
    # force: dialogues may end in " .", which sacrebleu would take for a mistake.
    found = sacrebleu.corpus_bleu(outputs, columns, smooth_method="none", force=True)  # type: ignore[arg-type]
    return found.score / 100


def rouge_l(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean F-measure of ROUGE-L, by rouge-score without stemming.

    Of several references the best counts. ``evaluate`` gives the median of resampled means, which
    is random and differs from the mean in the fourth digit or so.

    Raises:
        ValueError: when an output has no reference or there is no output.
    """
    _check(outputs, references)
    scorer = RougeScorer(["rougeL"])
    return fmean(
        float(scorer.score_multi(texts, output)["rougeL"].fmeasure)
        for output, texts in zip(outputs, references, strict=True)
    )


def meteor(outputs: Sequence[str], references: Sequence[Sequence[str]], wordnet: Path) -> float:
    """The mean of METEOR, by nltk with its default weights.

    Of several references the best counts. Sentences and words are split as by nltk's
    ``word_tokenize``, which ``evaluate`` uses, except that Punkt's trained parameters are a
    download: here Punkt knows no abbreviation, so that "Mr." gives two tokens.

    Args:
        outputs: the generated texts.
        references: for each output one reference or more.
        wordnet: the directory of WordNet's dictionary files. Debian's package ``wordnet-base``
            puts them at ``/usr/share/wordnet``; nltk's ``corpora/wordnet`` holds them too.

    Raises:
        FileNotFoundError: when WordNet's files are not there.
        ValueError: when an output has no reference or there is no output.
    """
    _check(outputs, references)
    _require_wordnet(wordnet)
    with _reader(wordnet) as reader:
        return fmean(
            meteor_score([_words(text) for text in texts], _words(output), wordnet=reader)
            for output, texts in zip(outputs, references, strict=True)
        )


def bert_score(
    outputs: Sequence[str], references: Sequence[Sequence[str]], encoder: str
) -> BertScore:
    """BERTScore without idf weights and without rescaling, by the library bert-score.

    Of several references the best counts, for each of the three by itself; an empty output
    scores 0.

    Args:
        outputs: the generated texts.
        references: for each output one reference or more.
        encoder: a name on the Hugging Face hub, as ``roberta-large``, which is the library's
            choice for English, or a directory. The layer is that of the library's table if the
            name, or the directory's, is in it, and the encoder's last one otherwise: keep the
            encoder's name in its path.

    Raises:
        FileNotFoundError: when there is no such encoder.
        ValueError: when an output has no reference, there is no output, or the library cannot
            take the encoder.
    """
    _check(outputs, references)
    config = _encoder_config(encoder)
    name = _name(encoder)
    scorer = BERTScorer(model_type=name, num_layers=_layer(encoder, config), lang="en")
    # The library loads the tokenizer itself and has no argument for one.
    scorer._tokenizer = _adapted(scorer._tokenizer, name, config)
    precision, recall, f1 = scorer.score(list(outputs), [list(texts) for texts in references])
    return BertScore(*(float(values.double().mean()) for values in (f1, recall, precision)))


def _check(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not outputs:
        raise ValueError("no output to score; give at least one")
    if len(outputs) != len(references):
        raise ValueError(f"{len(outputs)} outputs, but references of {len(references)}")
    for row, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(
                f"the references of output {row} are {texts!r}; give a list of one text or more"
            )


def _require_wordnet(wordnet: Path) -> None:
    missing = [name for name in _WORDNET_FILES if not (wordnet / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{wordnet} lacks WordNet's {', '.join(missing)}; install Debian's wordnet-base "
            "(/usr/share/wordnet) or unpack nltk's corpora/wordnet, and name the directory in "
            "config.evaluate.wordnet"
        )


def _words(text: str) -> list[str]:
    words = NLTKWordTokenizer()
    return [
        word for part in PunktSentenceTokenizer().tokenize(text) for word in words.tokenize(part)
    ]


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
def _reader(wordnet: Path) -> Iterator[_WordNet]:
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
                reader = _WordNet(root, opened)
            yield reader
    finally:
        nltk.data.path[:] = before


def _name(encoder: str) -> str:
    """What the libraries are given: bert-score would download a relative ``scibert...``."""
    return str(Path(encoder).absolute()) if Path(encoder).is_dir() else encoder


def _encoder_config(encoder: str) -> Any:
    """The encoder's configuration; see :func:`require`."""
    remedy = "name the local path of an encoder in config.evaluate.encoder"
    path = Path(encoder)
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"encoder {encoder!r} has no config.json; {remedy}")
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise FileNotFoundError(
            f"encoder {encoder!r} has no .safetensors file, and pickles are not loaded; {remedy}"
        )
    try:
        config = AutoConfig.from_pretrained(encoder)
    except OSError as error:
        raise FileNotFoundError(
            f"encoder {encoder!r} is neither a directory nor found in the Hugging Face cache or "
            f"hub; {remedy}"
        ) from error
    except ValueError as error:
        raise ValueError(f"encoder {encoder!r}: {error}; {remedy}") from error
    # bert-score tells a T5 by its name alone, and would fill another encoder with random weights.
    name = _name(encoder)
    if "t5" in name and "t5" not in config.model_type:
        raise ValueError(
            f"encoder {name!r} is a {config.model_type}, but bert-score takes every path with 't5' "
            "in it for a T5; rename or link it"
        )
    return config


def _layer(encoder: str, config: Any) -> int:
    """The layer whose outputs are compared; see :func:`bert_score`."""
    table = {name.rpartition("/")[2]: layer for name, layer in model2layers.items()}
    path = Path(encoder)
    # In the Hugging Face cache the name is above: models--roberta-large/snapshots/0123abcd.
    cached = [part.rpartition("--")[2] for part in path.parts if part.startswith("models--")]
    for name in (path.name, *cached):
        if name in table:
            return table[name]
    return config.num_hidden_layers


def _adapted(tokenizer: Any, encoder: str, config: Any) -> Any:
    """The tokenizer with what bert-score asks of it and transformers 5 has dropped."""
    if isinstance(tokenizer, (GPT2Tokenizer, RobertaTokenizer)):
        # The library asks for the space at each call, where it is ignored now: the first word
        # would be encoded as the middle of one.
        tokenizer = type(tokenizer).from_pretrained(encoder, add_prefix_space=True)
    if tokenizer.model_max_length > _NO_LIMIT:
        # RoBERTa's positions begin behind the number of its padding token.
        tokenizer.model_max_length = config.max_position_embeddings - tokenizer.pad_token_id - 1
    # Of an empty text only the special tokens are left.
    tokenizer.build_inputs_with_special_tokens = lambda _: tokenizer.encode("")
    return tokenizer
