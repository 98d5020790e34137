import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

from tests.train.evaluation.text.encoders import write_bert
from tests.train.evaluation.text.texts import OUTPUTS, SYNSETS, write_wordnet


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
    return write_bert(tmp_path_factory.mktemp("encoders") / "own")


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
