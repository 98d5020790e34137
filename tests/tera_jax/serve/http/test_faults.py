"""Clients that vanish, floods, stop texts across tokens, errors of the engine, and the end."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import httpx
import openai
import pytest

from tera_jax.serve.http.codec import Codec
from tera_jax.serve.requests import Finish, Request, Sampling
from tests.tera_jax.serve.http.fake import FakeEngine, answer, serving


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def body(**fields):
    return {"model": "ana", "prompt": "a", "max_tokens": 20, **fields}


def events(response):
    return [line[6:] for line in response.iter_lines() if line.startswith("data: ")]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(tokenizer, stream):
    engine = FakeEngine(len(tokenizer), slots=1, pause=0.02)
    with serving(engine, tokenizer) as (address, server):
        data = json.dumps(body(max_tokens=120, stream=stream)).encode()
        host, port = address.removeprefix("http://").split(":")
        with contextlib.closing(socket.create_connection((host, int(port)))) as raw:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}"
            raw.sendall(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + data)
            wait_until(lambda: engine.active)
        wait_until(lambda: engine.counts["cancelled"] == 1)
        assert engine.counts["generated_tokens"] < 120
        found = httpx.post(f"{address}/v1/completions", json=body(max_tokens=2))
        assert found.status_code == 200
        wait_until(lambda: b'status="499"' in server.service.metrics.text() or stream)


def test_a_flood_of_ten_times_the_slots_loses_nothing(tokenizer):
    engine = FakeEngine(len(tokenizer), slots=4, waiting=20, pause=0.001)
    codec = Codec(tokenizer)

    async def ask(client, number):
        prompt = codec.encode(f"the cat {number}")
        found = await client.post("/v1/completions", json=body(prompt=prompt, seed=number))
        return number, prompt, found

    async def flood(address):
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(40)))

    with serving(engine, tokenizer) as (address, _):
        found = asyncio.run(flood(address))
        statuses = [response.status_code for _, _, response in found]
        assert {*statuses} == {200, 429}
        for number, prompt, response in found:
            if response.status_code == 429:
                assert int(response.headers["retry-after"]) > 0
                assert response.json()["error"]["code"] == "busy"
                continue
            request = Request(tuple(prompt), "ana", Sampling(20, seed=number))
            wanted = codec.decode(answer(request, len(tokenizer)))
            assert response.json()["choices"][0]["text"] == wanted
        with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=9) as client:
            assert client.completions.create(**body()).usage.completion_tokens == 20


def test_several_prompts_are_taken_all_or_none(tokenizer):
    engine = FakeEngine(len(tokenizer), slots=1, waiting=3, pause=0.001)
    with serving(engine, tokenizer) as (address, _):
        found = httpx.post(f"{address}/v1/completions", json=body(prompt=["a"] * 20))
        assert found.status_code == 429
        wait_until(lambda: not engine.active and not engine.waiting.qsize())
        assert engine.counts["cancelled"] == engine.counts["requests"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "expected", "reason"),
    [
        ([" suns over"], "a cat saw red", "stop"),
        (["ed suns"], "a cat saw r", "stop"),
        ("s", "a cat ", "stop"),
        (["over the moon", "sea."], "a cat saw red suns over the ", "stop"),
        (["the seal"], "a cat saw red suns over the sea.", "length"),
        ([""], "a cat saw red suns over the sea.", "length"),
        ([], "a cat saw red suns over the sea.", "length"),
    ],
)
def test_a_stop_text_is_cut_exactly(
    http, running, tokenizer, monkeypatch, stop, expected, reason, stream
):
    text = "a cat saw red suns over the sea."
    monkeypatch.setattr(running[1], "replies", lambda *_: ids(tokenizer, text))
    wanted_body = body(stop=stop, stream=stream, logprobs=0)
    found = http.post("/v1/completions", json=wanted_body)
    if stream:
        *chunks, done = events(found)
        assert done == "[DONE]"
        chunks = [json.loads(chunk)["choices"][0] for chunk in chunks]
    else:
        chunks = [found.json()["choices"][0]]
    assert "".join(chunk["text"] for chunk in chunks) == expected
    assert chunks[-1]["finish_reason"] == reason
    tokens = [token for chunk in chunks for token in chunk["logprobs"]["tokens"]]
    joined = "".join(tokens)
    assert joined.startswith(expected)
    assert not tokens or len("".join(tokens[:-1])) < len(expected)


STATUSES = {"error": 500, "cancelled": 503, "unknown_adapter": 404}


@pytest.mark.parametrize("reason", STATUSES)
def test_an_answer_that_the_engine_gives_up_is_told(http, running, monkeypatch, tokenizer, reason):
    def replies(*_):
        return [*ids(tokenizer, "the cat"), Finish(reason, "the record is damaged")]

    monkeypatch.setattr(running[1], "replies", replies)
    found = http.post("/v1/completions", json=body())
    assert found.status_code == STATUSES[reason]
    *_, last = events(http.post("/v1/completions", json=body(stream=True)))
    error = json.loads(last)["error"]
    is_server = reason != "unknown_adapter"
    assert error["type"] == ("server_error" if is_server else "invalid_request_error")
    assert error["message"] == found.json()["error"]["message"]
    with (
        openai.OpenAI(base_url=f"{running[0]}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.APIError),
    ):
        [*client.completions.create(**body(stream=True))]


def test_the_server_ends_its_streams_and_takes_no_others(tokenizer):
    engine = FakeEngine(len(tokenizer), pause=0.02)
    with serving(engine, tokenizer) as (address, server):
        with httpx.stream("POST", f"{address}/v1/completions", json=body(stream=True)) as stream:
            lines = stream.iter_lines()
            next(lines)
            loop = server.servers[0].get_loop()
            loop.call_soon_threadsafe(server.end)
            wait_until(server.service.closing.is_set)
            health = httpx.get(f"{address}/health")
            assert (health.status_code, health.json()) == (503, {"status": "closing"})
            refused = httpx.post(f"{address}/v1/completions", json=body())
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "closing"
            rest = [*lines]
        assert rest[-2:] == ["data: [DONE]", ""]
        assert sum(line.startswith("data: {") for line in rest) >= 18
        wait_until(lambda: not server.servers or not server.servers[0].is_serving())
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")


def test_a_server_whose_engine_has_stopped_says_so(tokenizer):
    engine = FakeEngine(len(tokenizer))
    with serving(engine, tokenizer) as (address, _):
        assert httpx.get(f"{address}/health").status_code == 200
        engine.closed = True
        assert httpx.get(f"{address}/health").status_code == 503
        assert httpx.post(f"{address}/v1/completions", json=body()).status_code == 503


def test_a_stream_that_takes_too_long_at_the_end_is_told(tokenizer):
    engine = FakeEngine(len(tokenizer), pause=0.05)
    with serving(engine, tokenizer, drain_seconds=0.3) as (address, server):
        wanted_body = body(stream=True, max_tokens=100)
        with httpx.stream("POST", f"{address}/v1/completions", json=wanted_body) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.servers[0].get_loop().call_soon_threadsafe(server.end)
            rest = [line for line in lines if line]
        assert json.loads(rest[-1][6:])["error"]["code"] == "closing"


def test_a_body_that_does_not_come_ends(tokenizer):
    from tera_jax.serve.http.service import Limits

    limits = Limits(body_seconds=0.2)
    with serving(FakeEngine(len(tokenizer)), tokenizer, limits=limits) as (address, _):
        host, port = address.removeprefix("http://").split(":")
        with contextlib.closing(socket.create_connection((host, int(port)))) as raw:
            raw.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n"
                b"Content-Type: application/json\r\n\r\n{"
            )
            raw.settimeout(10)
            assert b" 408 " in raw.recv(4096)


def test_adapters_do_not_wait_for_each_other(tokenizer):
    """Streams at once, each with the tokens of its adapter."""
    names = [f"n{number:03}" for number in range(20)]
    engine, codec = FakeEngine(len(tokenizer), names, slots=8), Codec(tokenizer)
    found = {}

    def ask(client, name):
        stream = client.completions.create(**body(model=name, stream=True))
        found[name] = "".join(chunk.choices[0].text for chunk in stream)

    with (
        serving(engine, tokenizer) as (address, _),
        openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client,
    ):
        threads = [threading.Thread(target=ask, args=(client, name)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name in names:
        request = Request(tuple(codec.encode("a")), name, Sampling(20))
        assert found[name] == codec.decode(answer(request, len(tokenizer)))
    assert len({*found.values()}) == 20
