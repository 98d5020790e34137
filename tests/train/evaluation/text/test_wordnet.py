"""METEOR, and the dictionary files that it reads."""

import shutil
import warnings

import nltk
import pytest
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.meteor_score import meteor_score

from tests.train.evaluation.text.texts import CASES, SYNSETS, write_wordnet
from train.evaluation import text_metrics


def test_meteor_is_nltks_on_its_own_reader(tmp_path, monkeypatch, wordnet):
    # nltk's own reader wants all files, and a corpus of this name in the data directory.
    whole = tmp_path / "corpora" / "wordnet"
    write_wordnet(whole, SYNSETS)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The multilingual functions")
        reader = WordNetCorpusReader(str(whole), None)

    words = NLTKWordTokenizer().tokenize
    for output, references in CASES:
        if output == "I ski. Do you?":
            continue
        expected = meteor_score([words(text) for text in references], words(output), wordnet=reader)
        assert text_metrics.meteor([output], [references], wordnet) == expected

    # Two sentences, where the tokenizer of words alone leaves "ski." whole.
    expected = meteor_score(
        [["I", "ski", ".", "You", "do", "?"]], ["I", "ski", ".", "Do", "you", "?"]
    )
    assert text_metrics.meteor(["I ski. Do you?"], [["I ski. You do?"]], wordnet) == expected
    assert nltk.data.path == [str(tmp_path)]
    for file in reader._data_file_map.values():
        file.close()


def test_a_synonym_counts_in_meteor_only_where_wordnet_has_it(tmp_path, wordnet):
    without = tmp_path / "wordnet"
    write_wordnet(without, {**SYNSETS, "noun": [["car", "auto"], ["dog"], ["hound"]]})
    one = ["i like my dog a lot ."], [["i like my hound a lot ."]]
    assert text_metrics.meteor(*one, wordnet) == pytest.approx(1 - 0.5 / 7**3)
    assert text_metrics.meteor(*one, without) == pytest.approx((1 - 0.5 * (2 / 6) ** 3) * 6 / 7)
    other = ["my car"], [["my auto"]]
    assert text_metrics.meteor(*other, wordnet) == text_metrics.meteor(*other, without) > 0.9


def test_require_names_missing_files_of_wordnet(tmp_path, wordnet, bert):
    copy = shutil.copytree(wordnet, tmp_path / "wordnet")
    (copy / "data.verb").unlink()
    (copy / "adj.exc").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"wordnet lacks WordNet's data.verb, adj.exc; inst"
    ):
        text_metrics.require(copy, str(bert))
    with pytest.raises(FileNotFoundError, match="nowhere lacks WordNet's"):
        text_metrics.meteor(["a"], [["a"]], tmp_path / "nowhere")
