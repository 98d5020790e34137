"""BERTScore, and the encoder that it compares texts by."""

import shutil

import bert_score
import pytest
from transformers import BertConfig, PreTrainedTokenizerFast, RobertaTokenizer

from tests.train.evaluation.text.texts import CASES, OUTPUTS, REFERENCES
from train.evaluation import encoder as encoders
from train.evaluation import text_metrics


@pytest.fixture(scope="module")
def full():
    """The cases without empty outputs, on which the library fails under transformers 5."""
    return [case for case in CASES if case[0].strip()]


def test_bert_score_is_the_librarys(tmp_path, bert, full):
    limited = shutil.copytree(bert, tmp_path / "limited")
    PreTrainedTokenizerFast.from_pretrained(bert, model_max_length=63).save_pretrained(limited)
    precision, recall, f1 = (
        values.double()
        for values in bert_score.score(
            [output for output, _ in full],
            [references for _, references in full],
            model_type=str(limited),
            num_layers=3,
        )
    )
    # One reference, and several of which the best counts.
    for row in (1, 2):
        expected = (f1[row].item(), recall[row].item(), precision[row].item())
        output, references = full[row]
        found = text_metrics.bert_score([output], [references], str(bert))
        assert found == pytest.approx(expected, abs=1e-6)
    found = text_metrics.bert_score(OUTPUTS, REFERENCES, str(bert))
    # The two empty outputs score 0.
    expected = tuple(values.sum().item() / len(CASES) for values in (f1, recall, precision))
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0 < found.f1 < 1


def test_bert_score_cuts_a_text_at_the_encoders_positions(bert):
    long = "dog " * 100
    found = text_metrics.bert_score([long, long], [["dog " * 61], ["dog " * 60]], str(bert))
    first = text_metrics.bert_score([long], [["dog " * 61]], str(bert))
    assert first == pytest.approx((1, 1, 1))
    assert found.f1 < 1 - 1e-5


def test_a_roberta_reads_the_first_word_as_any_other(tmp_path, roberta, full):
    spaced = shutil.copytree(roberta, tmp_path / "spaced")
    RobertaTokenizer.from_pretrained(
        roberta, add_prefix_space=True, model_max_length=64
    ).save_pretrained(spaced)
    plain = shutil.copytree(roberta, tmp_path / "plain")
    RobertaTokenizer.from_pretrained(roberta, model_max_length=64).save_pretrained(plain)
    texts = [output for output, _ in full], [references for _, references in full]
    found = text_metrics.bert_score(*texts, str(roberta))
    expected, other = (
        bert_score.score(*texts, model_type=str(path), num_layers=2)[2].double().mean().item()
        for path in (spaced, plain)
    )
    assert found.f1 == pytest.approx(expected, abs=1e-6)
    assert abs(found.f1 - other) > 1e-5


@pytest.mark.parametrize(
    ("encoder", "layer"),
    [
        ("roberta-large", 17),
        ("FacebookAI/roberta-large", 17),
        ("/models/roberta-large", 17),
        ("/cache/models--FacebookAI--roberta-large/snapshots/0123abcd", 17),
        ("/cache/models--roberta-base/snapshots/0123abcd", 10),
        ("/models/own", 3),
    ],
)
def test_the_layer_is_the_tables_or_the_last(encoder, layer):
    assert encoders.compared_layer(encoder, BertConfig(num_hidden_layers=3)) == layer


def test_the_layer_makes_a_difference(tmp_path, bert):
    named = shutil.copytree(bert, tmp_path / "bert_uncased_L-2_H-128_A-2")
    one = OUTPUTS[1:2], REFERENCES[1:2]
    library = bert_score.utils.model2layers["google/bert_uncased_L-2_H-128_A-2"]
    assert library == 1
    assert text_metrics.bert_score(*one, str(named)) != text_metrics.bert_score(*one, str(bert))


@pytest.mark.parametrize("encoder", ["no-such-encoder", "/no/such/directory"])
def test_require_names_a_missing_encoder(wordnet, encoder):
    with pytest.raises(FileNotFoundError, match=f"encoder '{encoder}' is neither"):
        text_metrics.require(wordnet, encoder)


def test_require_names_an_unusable_encoder(tmp_path, wordnet, bert):
    with pytest.raises(FileNotFoundError, match=r"has no config.json; name the local path"):
        text_metrics.require(wordnet, str(tmp_path))
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors file, and pickles are not"):
        text_metrics.require(wordnet, str(unknown))
    (unknown / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"encoder '.*unknown': (?s:.*) in config.evaluate.encoder"
    ):
        text_metrics.require(wordnet, str(unknown))
    named = shutil.copytree(bert, tmp_path / "not-t5")
    with pytest.raises(ValueError, match="not-t5' is a bert, but bert-score takes every path"):
        text_metrics.require(wordnet, str(named))
