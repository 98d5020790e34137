"""On real weights logits and tokens are those of transformers."""

import numpy as np
import pytest
import torch

from tera_jax.llama import GenerationConfig, load_tokenizer
from tests.margins import within
from tests.tera_jax.llama.decode.test_generate import decode, torch_decode
from tests.tera_jax.llama.test_model import TOLERANCE, relative

pytestmark = [pytest.mark.long, pytest.mark.smollm2]


def test_logits_equal_transformers(smollm2, torch_smollm2, apply):
    model, params = smollm2
    tokens_BL = np.random.default_rng(0).integers(0, 49152, (2, 32)).astype(np.int32)
    with torch.no_grad():
        theirs = torch_smollm2(torch.tensor(tokens_BL)).logits.numpy()
    difference = relative(apply(model, params, tokens_BL), theirs)
    print(f"largest difference over range {difference:.1e}")  # shown by pytest -rP
    within(difference, TOLERANCE)
    assert relative(apply(model, params, tokens_BL[:, ::-1]), theirs) > 10 * TOLERANCE


def test_tokens_equal_transformers(smollm2, smollm2_path, torch_smollm2):
    model, params = smollm2
    tokenizer = load_tokenizer(smollm2_path)
    texts = ["Gravity is", "The three primary colours are red, blue"]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    ours = decode(model, params, prompts, GenerationConfig(max_new_tokens=16))
    np.testing.assert_array_equal(ours, torch_decode(torch_smollm2, prompts, max_new_tokens=16))
    assert "yellow" in tokenizer.decode(ours[1])
    assert ours[0].tolist() != ours[1].tolist()
    options = {"num_beams": 4, "max_new_tokens": 10, "no_repeat_ngram_size": 4}
    end = tokenizer.eos_token_id
    beams = decode(model, params, prompts[1:], GenerationConfig(**options), end)
    theirs = torch_decode(torch_smollm2, prompts[1:], end, **options)
    np.testing.assert_array_equal(beams, theirs)
