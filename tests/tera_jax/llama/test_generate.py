from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch

from tera_jax.llama import greedy, load_pretrained, load_tokenizer
from tera_jax.llama.generate import left_pad

PROMPTS = [[5, 9, 23, 7, 11, 64, 3], [17, 40, 8]]


def _decode(model, params, prompts, max_new_tokens=64, eos_id=None, pad_id=0, **kwargs):
    static = {"max_new_tokens": max_new_tokens, "eos_id": eos_id, "pad_id": pad_id, **kwargs}
    decode = jax.jit(partial(greedy, model, **static))
    return np.asarray(decode({"params": params}, *left_pad(prompts, pad_id)))


def _torch_decode(model, prompts, max_new_tokens=64, eos_id=None):
    tokens, mask = left_pad(prompts, 0, multiple=1)
    out = model.generate(
        torch.tensor(tokens, dtype=torch.long),
        attention_mask=torch.tensor(mask, dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_id,
        pad_token_id=0,
    )
    return out[:, tokens.shape[1] :].numpy()


def test_left_pad():
    tokens_BL, segment_ids_BL = left_pad([[1, 2, 3], [4]], pad_id=9, multiple=4)
    assert tokens_BL.tolist() == [[9, 1, 2, 3], [9, 9, 9, 4]]
    assert segment_ids_BL.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
    assert tokens_BL.dtype == segment_ids_BL.dtype == np.int32
    assert left_pad([[1] * 33], 0)[0].shape == (1, 64)
    for prompts in ([], [[1], []]):
        with pytest.raises(ValueError, match="at least one token each"):
            left_pad(prompts, 0)


def test_greedy_equals_transformers(tiny, load_torch):
    path, model, params = tiny
    ours = _decode(model, params, PROMPTS)
    np.testing.assert_array_equal(ours, _torch_decode(load_torch(path), PROMPTS))
    assert not np.array_equal(ours, _decode(model, params, [PROMPTS[0][::-1], PROMPTS[1]]))


@pytest.mark.smollm2
def test_smollm2_greedy_equals_transformers(smollm2, smollm2_path, torch_smollm2):
    model, params = smollm2
    tokenizer = load_tokenizer(smollm2_path)
    texts = ["Gravity is", "The three primary colours are red, blue"]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    ours = _decode(model, params, prompts)
    np.testing.assert_array_equal(ours, _torch_decode(torch_smollm2, prompts))
    assert "yellow" in tokenizer.decode(ours[1])
    assert ours[0].tolist() != ours[1].tolist()


def test_a_row_ends_at_eos_and_the_loop_with_the_last_row(tiny_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    free = _decode(model, params, PROMPTS, max_new_tokens=16)
    end = int(free[0, 4])
    stop = free[0].tolist().index(end)
    assert end not in free[1]
    for eos_id in (end, (end, 127), [end]):
        ended = _decode(model, params, PROMPTS, max_new_tokens=16, eos_id=eos_id, pad_id=99)
        assert ended[0].tolist() == [*free[0, : stop + 1].tolist(), *[99] * (15 - stop)]
        np.testing.assert_array_equal(ended[1], free[1])

    calls = []

    def counting(variables, *args, **kwargs):
        if kwargs["method"] == "hidden":
            jax.debug.callback(lambda: calls.append(1))
        return model.apply(variables, *args, **kwargs)

    _decode(model, params, PROMPTS[:1], max_new_tokens=16, eos_id=end, apply=counting)
    jax.effects_barrier()
    assert len(calls) == stop + 1


def test_decodes_through_the_given_apply(tiny_path):
    model, params = load_pretrained(tiny_path("llama-3"))

    def interceptor(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        return -out if context.module.name == "v_proj" else out

    def adapted(variables, *args, **kwargs):
        with nn.intercept_methods(interceptor):
            return model.apply(variables, *args, **kwargs)

    negated = jax.tree.map_with_path(
        lambda path, leaf: -leaf if any("v_proj" in str(key) for key in path) else leaf, params
    )
    ours = _decode(model, params, PROMPTS, max_new_tokens=8, apply=adapted)
    np.testing.assert_array_equal(ours, _decode(model, negated, PROMPTS, max_new_tokens=8))
    assert not np.array_equal(ours, _decode(model, params, PROMPTS, max_new_tokens=8))


def test_needs_a_token_to_make(tiny_path):
    model, params = load_pretrained(tiny_path("llama-3"))
    with pytest.raises(ValueError, match="max_new_tokens=0 must be at least 1"):
        _decode(model, params, PROMPTS, max_new_tokens=0)
