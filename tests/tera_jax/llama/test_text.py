"""Text in, text out: against transformers, streamed and not."""

import copy
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
import torch
import transformers

import tera_jax
from tera_jax.llama import GenerationConfig, load_pretrained, load_tokenizer, text_generator
from tera_jax.llama.decode.steps import Steps
from tera_jax.llama.prompts import encode

PROMPTS = ["a: red?", "the sun at night saw a cat"]
CHAT = [
    {"role": "system", "content": "Answer truly."},
    {"role": "user", "content": "a: red?"},
]
NEW = 12
SAMPLED = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 3}


@pytest.fixture(scope="module")
def base(tiny_llama):
    model, params = load_pretrained(tiny_llama)
    params = jax.tree.map(lambda leaf: leaf * 2, params)  # answers that do not only repeat
    return model, {"params": params}, load_tokenizer(tiny_llama)


@pytest.fixture(scope="module")
def adapted(base):
    """The variables of a LoRA that is not the base any more."""
    model, variables, _ = base
    adapter = tera_jax.adapt(model, jnp.ones((1, 2), jnp.int32), method="lora")
    frozen = adapter.init_frozen(variables["params"])
    d = adapter.init_d(variables["params"], frozen)
    d = jax.tree.map(lambda leaf: leaf + 0.3, d)
    return adapter, {**variables, "frozen": frozen, "d": d}


@pytest.fixture(scope="module")
def theirs(base, tiny_llama):
    """transformers' greedy answers to token ids, by the doubled weights."""
    _, variables, tokenizer = base
    del variables
    torch_model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        for leaf in torch_model.parameters():
            leaf *= 2

    def answer(ids):
        given = torch.tensor([ids])
        out = torch_model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=NEW, do_sample=False,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
        )  # fmt: skip
        return tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)

    return answer


def test_greedy_answers_are_transformers_whole_and_streamed(base, theirs):
    _, _, tokenizer = base
    prompts = [*PROMPTS, CHAT]
    ids = [
        *(tokenizer(prompt)["input_ids"] for prompt in PROMPTS),
        tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"],
    ]
    assert [encode(tokenizer, prompt) for prompt in prompts] == ids
    expected = [theirs(each) for each in ids]
    assert tera_jax.generate(*base, prompts, max_new_tokens=NEW) == expected
    assert len({*expected}) == 3
    for prompt, answer in zip(prompts, expected, strict=True):
        streamed = [*tera_jax.stream(*base, prompt, max_new_tokens=NEW)]
        assert "".join(streamed) == answer
        assert len(streamed) > 1
        assert tera_jax.generate(*base, prompt, max_new_tokens=NEW) == answer


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_what_is_streamed_is_what_is_generated(base, adapted, settings):
    adapter, variables = adapted
    model, _, tokenizer = base
    given = (model, variables, tokenizer, PROMPTS[1])
    settings = {"adapter": adapter, "max_new_tokens": NEW, **settings}
    whole = tera_jax.generate(*given, **settings)
    assert "".join(tera_jax.stream(*given, **settings)) == whole
    assert whole != tera_jax.generate(*given, **{**settings, "adapter": None})
    if "seed" in settings:
        assert whole != tera_jax.generate(*given, **{**settings, "seed": 4})
        # A row's draws do not depend on what else is asked.
        several = tera_jax.generate(*given[:3], [PROMPTS[1], PROMPTS[0]], **settings)
        assert several[0] == whole


def test_a_merged_adapter_answers_as_one_that_is_applied(base, adapted, monkeypatch):
    adapter, variables = adapted
    model, _, tokenizer = base
    given = (model, variables, tokenizer, PROMPTS)
    merged = tera_jax.generate(*given, adapter=adapter, max_new_tokens=NEW)
    monkeypatch.setattr(text_generator.quantize, "any_quantized", lambda _: True)
    assert tera_jax.generate(*given, adapter=adapter, max_new_tokens=NEW) == merged


def test_virtual_tokens_stand_before_every_prompt(base):
    model, variables, tokenizer = base
    adapter = tera_jax.adapt(model, jnp.ones((1, 2), jnp.int32), method="prompt")
    frozen = adapter.init_frozen(variables["params"])
    d = adapter.init_d(variables["params"], frozen)
    variables = {**variables, "frozen": frozen, "d": d}
    given = {"adapter": adapter, "max_new_tokens": NEW}
    (answer,) = tera_jax.generate(model, variables, tokenizer, PROMPTS[:1], **given)
    assert "".join(tera_jax.stream(model, variables, tokenizer, PROMPTS[0], **given)) == answer
    changed = {**variables, "d": jax.tree.map(lambda leaf: leaf + 1, d)}
    assert tera_jax.generate(model, changed, tokenizer, PROMPTS[0], **given) != answer


def test_the_first_token_is_out_before_the_last_is_made(base, monkeypatch):
    """No more than one step is under way beyond the token that is out."""
    model, variables, tokenizer = base
    made = []
    step = text_generator._step
    monkeypatch.setattr(text_generator, "_step", lambda *args: made.append(1) or step(*args))
    generator = text_generator.TextGenerator(model, variables, tokenizer)
    config = GenerationConfig(max_new_tokens=NEW)
    ids = generator.encode(PROMPTS[1])
    out = generator.stream(ids, config)
    assert made == []
    for place in range(1, 4):
        next(out)
        assert len(made) == place
    rest = [*out]
    assert len(made) == NEW - 1
    assert len(rest) == NEW - 3


def test_a_prompt_of_another_length_compiles_nothing_within_a_bucket(base, monkeypatch):
    model, variables, tokenizer = base
    traced = []
    for name in ("prefill", "step"):
        function = getattr(Steps, name)
        counting = functools.wraps(function)(
            lambda *args, f=function: traced.append(f.__name__) or f(*args)
        )
        monkeypatch.setattr(Steps, name, counting)

    def ask(prompt):
        traced.clear()
        "".join(tera_jax.stream(model, variables, tokenizer, prompt, max_new_tokens=4))
        tera_jax.generate(model, variables, tokenizer, prompt, max_new_tokens=4)
        return sorted({*traced})

    assert ask("a") == ["prefill", "step"]
    assert ask(PROMPTS[1]) == ask("one two three") == []
    assert ask("red cat " * 30) == ["prefill", "step"]


def test_an_answer_ends_where_the_context_ends(base):
    model, variables, tokenizer = base
    generator = text_generator.TextGenerator(model, variables, tokenizer)
    context = model.config.max_position_embeddings
    ids = ([5, 9, 23] * context)[: context - 4]
    config = GenerationConfig(max_new_tokens=NEW)
    assert generator.room(ids, config) == 4
    ((_, answer),) = generator.answers([ids], config)
    assert [*generator.stream(ids, config)] == answer
    assert len(answer) == 4
    with pytest.raises(ValueError, match=f"has {context} tokens, which leaves no room"):
        generator.room([5] * context, config)


def test_stop_texts_end_an_answer_and_are_no_part_of_it(base):
    whole = tera_jax.generate(*base, PROMPTS[1], max_new_tokens=NEW)
    middle = whole[len(whole) // 2 : len(whole) // 2 + 3]
    expected = whole[: whole.index(middle)]
    given = {"max_new_tokens": NEW, "stop": [middle]}
    assert tera_jax.generate(*base, PROMPTS[1], **given) == expected
    assert "".join(tera_jax.stream(*base, PROMPTS[1], **given)) == expected


@pytest.mark.parametrize(
    ("prompt", "settings", "error", "message"),
    [
        ("", {}, ValueError, "the prompt is empty"),
        ("\ud800", {}, ValueError, r"lone surrogate U\+D800"),
        (3, {}, TypeError, "a prompt is a text, or a list of messages"),
        ([{"role": "user"}], {}, ValueError, "message 0 has no text under 'content'"),
        ("a", {"num_beams": 2}, ValueError, "num_beams=2 cannot stream"),
        ("a", {"max_tokens": 2}, TypeError, "unknown setting 'max_tokens'; the settings are max_n"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_answered_is_refused_by_name(base, prompt, settings, error, message):
    with pytest.raises(error, match=message):
        [*tera_jax.stream(*base, prompt, **settings)]
    if "num_beams" not in settings:
        with pytest.raises(error, match=message):
            tera_jax.generate(*base, prompt, **settings)


def test_messages_that_the_template_refuses_get_its_own_words():
    tokenizer = SimpleNamespace(chat_template=None)
    with pytest.raises(ValueError, match="has no chat template; give the prompt as a text"):
        encode(tokenizer, CHAT)


def test_a_template_that_raises_is_told_in_its_words(base):
    _, _, tokenizer = base
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="does not take these messages: roles must alternate"):
        encode(strict, CHAT)
