import pytest
from nltk.translate.bleu_score import corpus_bleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from tests.train.evaluation.text.texts import CASES, OUTPUTS, REFERENCES
from train.evaluation import text_metrics


@pytest.mark.parametrize("case", CASES)
def test_bleu_of_one_text_is_the_librarys(case):
    output, references = case
    columns = [[text] for text in references]
    library = BLEU(smooth_method="none", force=True).corpus_score([output], columns)
    assert text_metrics.bleu([output], [references]) == library.score / 100


def test_bleu_of_all_texts_takes_ragged_references_and_equals_another_library():
    words = BLEU().tokenizer
    # nltk counts one 4-gram in an output of fewer than four words.
    cases = [case for case in CASES if len(words(case[0]).split()) >= 4]
    assert len(cases) >= 16
    outputs, references = zip(*cases, strict=True)
    expected = corpus_bleu(
        [[words(text).split() for text in texts] for texts in references],
        [words(output).split() for output in outputs],
    )
    found = text_metrics.bleu(outputs, references)
    assert found == pytest.approx(expected, abs=1e-9)
    assert 0.1 < found < 0.9
    assert text_metrics.bleu(outputs, [texts[:1] for texts in references]) < found


def test_rouge_l_is_the_mean_of_the_librarys_best():
    scorer = RougeScorer(["rougeL"])
    best = [
        max(scorer.score(text, output)["rougeL"].fmeasure for text in references)
        for output, references in CASES
    ]
    found = text_metrics.rouge_l(OUTPUTS, REFERENCES)
    assert found == pytest.approx(sum(best) / len(best), rel=1e-12)
    assert text_metrics.rouge_l(OUTPUTS[:1], REFERENCES[:1]) == 1
    assert text_metrics.rouge_l(OUTPUTS[1:2], REFERENCES[1:2]) == pytest.approx(5 / 6)


def test_all_metrics_together(wordnet, bert):
    found = text_metrics.score(OUTPUTS, REFERENCES, wordnet=wordnet, encoder=str(bert))
    similarity = text_metrics.bert_score(OUTPUTS, REFERENCES, str(bert))
    assert found == text_metrics.Metrics(
        bleu=text_metrics.bleu(OUTPUTS, REFERENCES),
        rouge_l=text_metrics.rouge_l(OUTPUTS, REFERENCES),
        meteor=text_metrics.meteor(OUTPUTS, REFERENCES, wordnet),
        bertscore_f1=similarity.f1,
        bertscore_recall=similarity.recall,
        bertscore_precision=similarity.precision,
    )
    assert all(0 < value < 1 for value in found)
    assert found.average == pytest.approx(sum(found) / 6)


def test_empty_outputs_alone_score_nothing(wordnet, bert):
    references = [["one reference ."], ["two", "of them"]]
    found = text_metrics.score(["", ""], references, wordnet=wordnet, encoder=str(bert))
    assert set(found) == {0.0}


@pytest.mark.parametrize(
    ("outputs", "references", "message"),
    [
        ([], [], "no output to score"),
        (["a"], [], "1 outputs, but references of 0"),
        (["a", "b"], [["a"], []], r"the references of output 1 are \[\]"),
        (["a"], ["a"], "the references of output 0 are 'a'; give a list"),
    ],
)
def test_bad_references_are_refused(outputs, references, message, wordnet, bert):
    for metric in (
        text_metrics.bleu,
        text_metrics.rouge_l,
        lambda *texts: text_metrics.meteor(*texts, wordnet),
        lambda *texts: text_metrics.bert_score(*texts, str(bert)),
    ):
        with pytest.raises(ValueError, match=message):
            metric(outputs, references)


def test_require_passes_what_is_there(wordnet, bert):
    text_metrics.require(wordnet, str(bert))
