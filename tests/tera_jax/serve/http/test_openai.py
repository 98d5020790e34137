"""The real client of OpenAI gets what the engine says."""

import math

import openai
import pytest

from tera_jax.serve.http.codec import Codec
from tera_jax.serve.requests import Request, Sampling
from tests.tera_jax.serve.http.fake import answer

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the sun?"}]


@pytest.fixture(scope="module")
def codec(tokenizer):
    return Codec(tokenizer)


def expected(codec, prompt, adapter, count, seed=None):
    """The ids of the fake engine for a text, a conversation or token ids."""
    ids = prompt if prompt and isinstance(prompt[0], int) else codec.encode(prompt)
    request = Request(tuple(ids), adapter, Sampling(count, seed=seed))
    return answer(request, len(codec._tokenizer))


@pytest.mark.parametrize("model", ["base", "ana", "ben"])
def test_a_completion_is_the_text_of_the_models_tokens(client, codec, model):
    found = client.completions.create(model=model, prompt="the cat", max_tokens=20)
    ids = expected(codec, "the cat", None if model == "base" else model, 20)
    assert found.choices[0].text == codec.decode(ids)
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 20
    assert found.usage.prompt_tokens == len(codec.encode("the cat"))
    assert found.model == model


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_a_stream_is_the_whole_text_in_pieces(client, codec, kind):
    options = {"max_tokens": 40, "stream": True, "stream_options": {"include_usage": True}}
    if kind == "chat":
        prompt, stream = (
            MESSAGES,
            client.chat.completions.create(model="ana", messages=MESSAGES, **options),
        )
    else:
        prompt, stream = "a", client.completions.create(model="ana", prompt="a", **options)
    *chunks, usage = stream
    pieces = [
        (chunk.choices[0].delta.content if kind == "chat" else chunk.choices[0].text) or ""
        for chunk in chunks
    ]
    assert "".join(pieces) == codec.decode(expected(codec, prompt, "ana", 40))
    assert len(pieces) > 20
    assert chunks[-1].choices[0].finish_reason == "length"
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-1]} == {None}
    assert (usage.choices, usage.usage.completion_tokens) == ([], 40)
    assert {chunk.usage for chunk in chunks} == {None}


def test_a_chat_is_answered_by_the_template(client, codec):
    found = client.chat.completions.create(model="ana", messages=MESSAGES, max_tokens=9, n=2)
    ids = expected(codec, MESSAGES, "ana", 9)
    assert [choice.message.content for choice in found.choices] == [codec.decode(ids)] * 2
    assert found.usage.prompt_tokens == len(codec.encode(MESSAGES))
    assert found.usage.completion_tokens == 18
    parts = [{"role": each["role"], "content": [text(each)]} for each in MESSAGES]
    same = client.chat.completions.create(model="ana", messages=parts, max_tokens=9)
    assert same.choices[0].message.content == codec.decode(ids)


def text(message):
    return {"type": "text", "text": message["content"]}


@pytest.mark.parametrize("as_ids", [False, True])
def test_several_prompts_are_answered_in_their_order(client, codec, as_ids):
    texts = ["the cat", "red", "sun sea"]
    prompts = [codec.encode(each) for each in texts] if as_ids else texts
    found = client.completions.create(model="ana", prompt=prompts, max_tokens=6, n=2, seed=3)
    assert [choice.index for choice in found.choices] == [*range(6)]
    for row, choice in enumerate(found.choices):
        ids = expected(codec, codec.encode(texts[row // 2]), "ana", 6, seed=3 + row % 2)
        assert choice.text == codec.decode(ids)
    assert found.usage.prompt_tokens == sum(len(codec.encode(each)) for each in texts)
    one = client.completions.create(model="ana", prompt=codec.encode("red"), max_tokens=6, seed=3)
    assert one.choices[0].text == found.choices[2].text != found.choices[3].text


@pytest.mark.parametrize("stream", [False, True])
def test_echo_brings_the_prompt_with_its_logprobs(client, codec, stream):
    ids = codec.encode("the cat sat")
    found = client.completions.create(
        model="ana", prompt=ids, max_tokens=2, echo=True, logprobs=2, stream=stream
    )
    found = [*found][-1] if stream else found
    (choice,) = found.choices
    whole = [*ids, *expected(codec, ids, "ana", 2)]
    assert choice.text == "the cat sat" + codec.decode(whole[len(ids) :])
    scores = choice.logprobs
    assert scores.tokens == [codec.text_of(id_) for id_ in whole]
    assert scores.token_logprobs == [None, *[-0.5] * (len(whole) - 1)]
    assert scores.top_logprobs[0] is None
    for token, top in zip(scores.tokens[1:], scores.top_logprobs[1:], strict=True):
        assert top[token] == -0.5 == max(top.values())
        assert len(top) <= 2
    for token, offset in zip(scores.tokens, scores.text_offset, strict=True):
        assert "�" in token or choice.text[offset:].startswith(token)
    alone = client.completions.create(
        model="ana", prompt=ids, max_tokens=0, echo=True, logprobs=0, temperature=0
    )
    assert alone.choices[0].text == "the cat sat"
    assert len(alone.choices[0].logprobs.tokens) == len(ids)
    plain = client.completions.create(
        model="ana", prompt="the cat sat", max_tokens=2, echo=True, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in plain) == choice.text


def test_logprobs_of_a_chat_have_the_bytes_of_the_answer(client, codec):
    def ask(stream):
        return client.chat.completions.create(
            model="ben",
            messages=MESSAGES,
            max_tokens=30,
            logprobs=True,
            top_logprobs=3,
            stream=stream,
        )

    tokens = ask(stream=False).choices[0].logprobs.content
    ids = expected(codec, MESSAGES, "ben", 30)
    joined = b"".join(bytes(token.bytes) for token in tokens)
    assert joined.decode(errors="replace") == codec.decode(ids)
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    assert math.isclose(tokens[0].logprob, -0.5)
    streamed = [
        token
        for chunk in ask(stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == tokens


def test_models_come_in_pages(client, running, codec):
    assert [model.id for model in client.models.list()] == ["base", "ana", "ben"]
    page = client.models.list(extra_query={"limit": 1})
    assert ([model.id for model in page.data], page.has_more) == (["base"], True)
    page = client.models.list(extra_query={"limit": 1, "after": "ana"})
    assert ([model.id for model in page.data], page.has_more) == (["ben"], False)
    assert client.models.retrieve("ana").parent == "base"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("zoe")


def test_an_unknown_model_is_never_the_base(client):
    for ask in (
        lambda: client.completions.create(model="zoe", prompt="a"),
        lambda: client.chat.completions.create(model="zoe", messages=MESSAGES, stream=True),
    ):
        with pytest.raises(openai.NotFoundError, match="'zoe' does not exist") as caught:
            ask()
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"


def test_settings_arrive_at_the_engine(client, running):
    client.completions.create(
        model="base",
        prompt="a",
        max_tokens=3,
        temperature=0.5,
        top_p=0.9,
        seed=-7,
        extra_body={"top_k": 5, "stop_token_ids": [4], "ignore_eos": True},
    )
    wanted = Sampling(3, 0.5, 0.9, 5, -7, (4,), None, True)
    assert running[1].seen[-1].sampling == wanted
    client.chat.completions.create(model="base", messages=MESSAGES)
    room = running[1].max_length - len(running[1].seen[-1].tokens)
    assert running[1].seen[-1].sampling == Sampling(room, temperature=1.0)
