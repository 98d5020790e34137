"""Streams at once over adapters of a store: each has the tokens of its adapter alone."""

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tera_jax.serve.engine import Engine
from tera_jax.serve.http.codec import Codec
from tests.tera_jax.llama.decode.served import LONGEST
from tests.tera_jax.serve.engines import CONFIG, arrays, drawn, expected, filled, kind, prompts
from tests.tera_jax.serve.http.fake import serving

SMALL = dataclasses.replace(CONFIG, echo=False)  # which compiles less


async def ask(client, codec, model, prompt, **fields):
    """The tokens of a stream, as texts, and whether it ended."""
    sent = {"max_tokens": LONGEST, "temperature": 0, "logprobs": 0, "stream": True, **fields}
    tokens, reasons = [], []
    async for chunk in await client.completions.create(model=model, prompt=prompt, **sent):
        (choice,) = chunk.choices
        tokens += choice.logprobs.tokens
        reasons.append(choice.finish_reason)
    assert reasons[-1] in ("stop", "length")
    return tokens


async def ask_all(address, codec, names, given, meanwhile=None):
    """Of all names at once."""
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="x", timeout=300) as client:
        sent = [ask(client, codec, *each) for each in zip(names, given, strict=True)]
        if meanwhile is not None:
            sent.append(meanwhile(client))
        found = await asyncio.gather(*sent)
        return found[: len(names)]


@pytest.fixture
def served(tmp_path, tokenizer):
    """(count) -> address, codec, store, engine."""
    with contextlib.ExitStack() as stack:

        def serve(count):
            model, _, base, *_ = kind()
            store = stack.enter_context(filled(tmp_path / "s", count))
            engine = Engine.of_store(model, base["params"], store, SMALL)
            address, _ = stack.enter_context(serving(engine, tokenizer))
            return address, Codec(tokenizer), store, engine

        yield serve


def texts(codec, seed, prompt, d=None):
    return [codec.text_of(id_) for id_ in expected(seed, prompt, d=d)]


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.long)])
def test_streams_are_the_greedy_tokens_of_each_adapter(served, count):
    address, codec, *_ = served(count)
    # Of one length, since the tokens alone are computed by a program for each length.
    given = [prompt[:1] for prompt in prompts(count)]
    found = asyncio.run(ask_all(address, codec, [f"n{seed}" for seed in range(count)], given))
    wanted = [texts(codec, seed, prompt) for seed, prompt in enumerate(given)]
    assert sum(a == b for a, b in zip(found, wanted, strict=True)) == count
    others = [texts(codec, (seed + 1) % 20, prompt) for seed, prompt in enumerate(given[:20])]
    assert sum(a == b for a, b in zip(found[:20], others, strict=True)) < 10


@pytest.mark.long
def test_replaced_adapters_and_clients_that_vanish_disturb_no_other(served):
    count = 60
    address, codec, store, engine = served(count)
    given = prompts(count)
    names = [f"n{seed}" for seed in range(count)]

    async def leave():
        """By a socket: a stream of the openai client that is left keeps its generators running."""
        asked = {"model": "n0", "prompt": [12], "max_tokens": 20, "stream": True}
        body = json.dumps({**asked, "ignore_eos": True})
        head = f"Host: localhost\r\nContent-Length: {len(body)}\r\n"
        place = urlsplit(address)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        kind = "Content-Type: application/json"
        writer.write(f"POST /v1/completions HTTP/1.1\r\n{kind}\r\n{head}\r\n{body}".encode())
        await reader.readuntil(b"data:")
        writer.close()
        await writer.wait_closed()

    async def disturb(_):
        for number in range(20):
            await asyncio.gather(leave(), leave())
            await asyncio.to_thread(store.put, f"n{number}", arrays(1000 + number))

    found = asyncio.run(ask_all(address, codec, names, given, disturb))
    for seed, tokens in enumerate(found):
        wanted = [texts(codec, seed, given[seed])]
        if seed < 20:  # the one that it began with, before or after
            wanted.append(texts(codec, seed, given[seed], drawn(1000 + seed)))
        assert tokens in wanted
    again = asyncio.run(ask_all(address, codec, names, given))
    for seed, tokens in enumerate(again):
        d = drawn(1000 + seed) if seed < 20 else None
        assert tokens == texts(codec, seed, given[seed], d)
    stats = engine.stats()
    assert stats.failed == 0
    assert stats.cancelled > 0
    assert (stats.active, stats.waiting) == (0, 0)


@pytest.mark.long
@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_full_disk_disturbs_no_answer(served, monkeypatch, call):
    """Each put fails with one error while others are answered; then there is room again."""
    count, errors = 20, []
    address, codec, store, engine = served(count)
    given = [prompt[:1] for prompt in prompts(count)]
    names = [f"n{seed}" for seed in range(count)]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def fill(_):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            for number in range(40):
                name = f"n{number % count}" if number % 2 else f"new{number}"
                try:
                    await asyncio.to_thread(store.put, name, arrays(1000 + number))
                except OSError as error:
                    errors.append(error)

    found = asyncio.run(ask_all(address, codec, names, given, fill))
    assert len(errors) == 40
    assert {error.errno for error in errors} == {errno.ENOSPC}
    assert "No space left on device in the store" in str(errors[0])
    assert "put again" in str(errors[0])
    right = [texts(codec, seed, prompt) for seed, prompt in enumerate(given)]
    assert found == right
    assert sorted(store) == sorted(names)
    assert asyncio.run(ask_all(address, codec, names, given)) == right
    assert httpx.get(f"{address}/v1/models/new0").status_code == 404
    assert b'status="5' not in httpx.get(f"{address}/metrics").content
    assert engine.stats().failed == 0
    store.put("new0", arrays(1000))
    (new,) = asyncio.run(ask_all(address, codec, ["new0"], given[:1]))
    assert new == texts(codec, 0, given[0], drawn(1000)) != right[0]
