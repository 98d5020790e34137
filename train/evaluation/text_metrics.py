"""Metrics of generated text, each by its library's own code; ConvAI2 is scored by these.

The libraries come with ``pip install tera-jax[evaluate]`` and take seconds to import. Nothing is
downloaded but, where it is named so, the encoder of BERTScore by transformers.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import sacrebleu
from bert_score import BERTScorer
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktSentenceTokenizer
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer

from .encoder import adapted_tokenizer, compared_layer, load_config, local_name
from .wordnet import open_wordnet, require_wordnet


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
    require_wordnet(wordnet)
    load_config(encoder)


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
    require_wordnet(wordnet)
    with open_wordnet(wordnet) as reader:
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
    config = load_config(encoder)
    name = local_name(encoder)
    scorer = BERTScorer(model_type=name, num_layers=compared_layer(encoder, config), lang="en")
    # The library loads the tokenizer itself and has no argument for one.
    scorer._tokenizer = adapted_tokenizer(scorer._tokenizer, name, config)
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


def _words(text: str) -> list[str]:
    words = NLTKWordTokenizer()
    return [
        word for part in PunktSentenceTokenizer().tokenize(text) for word in words.tokenize(part)
    ]
