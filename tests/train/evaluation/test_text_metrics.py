import shutil
import warnings

import bert_score
import nltk
import pytest
import torch
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.bleu_score import corpus_bleu
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

from train.evaluation import text_metrics

CASES = [
    ("i like my dog .", ["i like my dog ."]),
    ("i like my dog a lot .", ["i like my hound a lot ."]),
    ("", ["an empty output counts ."]),
    ("   ", ["so does a blank one ."]),
    ("hello there , how are you ?", ["hi , how are you ?", "hello there , how do you do ?"]),
    ("I ski. Do you?", ["I ski. You do?"]),
    ("i have 2 cats and 3.5 dogs", ["i have 2 cats and 3.5 hounds", "i have cats", "none"]),
    ("my car is big .", ["my auto is vast ."]),
    ("i run soon", ["i sprint anon"]),
    ("what's up?", ["what is up?"]),
    ("don't you know!", ["do you not know!", "don't you know?"]),
    ("well... i think so", ["well, i think so..."]),
    ("it costs $1,000.50 (a lot)", ["it cost $1,000.50 - a lot"]),
    ("THE DOG BARKS", ["the dog barks"]),
    ("dogs running and jumped", ["a dog runs and jumps"]),
    ("a", ["a"]),
    ("nothing in common here", ["totally different words"]),
    ("yes yes yes yes yes", ["yes", "yes yes"]),
    ("i work at a bank , and you ?", ["you work at a bank , and i ?"]),
    ("first line\nsecond line", ["first line second line"]),
    ('he said "hello" & left', ["he said hello and left"]),
    ("the car , the dog , the auto", ["the auto , the hound , the car", "the car"]),
    ("café in münchen ?", ["cafe in munich ?"]),
    ("i am 25 years old .", ["i am twenty five .", "i am 25 .", "25 years old"]),
]
OUTPUTS = [output for output, _ in CASES]
REFERENCES = [references for _, references in CASES]


def write_wordnet(directory, synsets):
    """WordNet's files (wndb(5WN), senseidx(5WN)) of one-sense words, and what nltk opens more."""
    directory.mkdir(parents=True)
    senses = []
    for part, letter, number in (("noun", "n", 1), ("verb", "v", 2), ("adj", "a", 3)):
        _write_part(directory, part, letter, number, synsets.get(part, []), senses)
    _write_part(directory, "adv", "r", 4, synsets.get("adv", []), senses)
    (directory / "index.sense").write_text("".join(sorted(senses)))
    (directory / "lexnames").write_text("00\town.all\t1\n")
    (directory / "cntlist.rev").write_text("")


def _write_part(directory, part, letter, number, synsets, senses):
    data, index = "  1 The licence stands here.  \n", []
    for words in synsets:
        offset = len(data)
        named = " ".join(f"{word} 0" for word in words)
        data += f"{offset:08d} 00 {letter} {len(words):02x} {named} 000 | made up  \n"
        index += [f"{word} {letter} 1 0 1 0 {offset:08d}  \n" for word in words]
        senses += [f"{word}%{number}:00:00:: {offset:08d} 1 0\n" for word in words]
    (directory / f"data.{part}").write_text(data)
    (directory / f"index.{part}").write_text("  1 The licence stands here.  \n" + "".join(index))
    (directory / f"{part}.exc").write_text("")


SYNSETS = {
    "noun": [["car", "auto"], ["dog", "hound"]],
    "verb": [["run", "sprint"]],
    "adj": [["big", "vast"]],
    "adv": [["soon", "anon"]],
}


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    """As Debian has it: without the files that only other programs open."""
    path = tmp_path_factory.mktemp("words") / "wordnet"
    write_wordnet(path, SYNSETS)
    for name in ("index.sense", "lexnames", "cntlist.rev"):
        (path / name).unlink()
    return path


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A random BERT of three layers that reads words."""
    path = tmp_path_factory.mktemp("encoders") / "own"
    texts = [text for output, references in CASES for text in (output, *references)]
    words = sorted({word for text in texts for word in text.lower().split()})
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *words]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A random RoBERTa of two layers with a byte-level tokenizer, which tells spaces apart."""
    path = tmp_path_factory.mktemp("encoders") / "roberta"
    path.mkdir()
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(OUTPUTS * 10, vocab_size=500, special_tokens=special)
    trained.save_model(str(path))
    tokenizer = RobertaTokenizer.from_pretrained(path)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
    )
    RobertaModel(config).save_pretrained(path)
    return path


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
    assert text_metrics._layer(encoder, BertConfig(num_hidden_layers=3)) == layer


def test_the_layer_makes_a_difference(tmp_path, bert):
    named = shutil.copytree(bert, tmp_path / "bert_uncased_L-2_H-128_A-2")
    one = OUTPUTS[1:2], REFERENCES[1:2]
    library = bert_score.utils.model2layers["google/bert_uncased_L-2_H-128_A-2"]
    assert library == 1
    assert text_metrics.bert_score(*one, str(named)) != text_metrics.bert_score(*one, str(bert))


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
