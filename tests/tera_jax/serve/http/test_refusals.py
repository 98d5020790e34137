"""What a client sends wrong is told by name, in OpenAI's shape, and is never a 500."""

import json

import pytest

from tests.tera_jax.serve.http.fake import FakeEngine, serving

MESSAGES = [{"role": "user", "content": "a"}]
DEEP = "[" * 100_000 + "]" * 100_000


def post(http, path, content, **headers):
    data = content if isinstance(content, bytes | str) else json.dumps(content)
    kind = {"Content-Type": "application/json", **headers}
    return http.post(path, content=data, headers=kind)


def completion(**fields):
    return {"model": "ana", "prompt": "a", "max_tokens": 2, **fields}


def chat(**fields):
    return {"model": "ana", "messages": MESSAGES, "max_tokens": 2, **fields}


@pytest.mark.parametrize(
    ("body", "param", "part"),
    [
        (completion(frequency_penalty=0.5), "frequency_penalty", "is not offered here"),
        (completion(logit_bias={"5": 100}), "logit_bias", "is not offered here"),
        (completion(best_of=2), "best_of", "is not offered here"),
        (completion(guided_json={}), "guided_json", "is unknown"),
        (completion(prompt=""), "prompt", "the prompt is empty"),
        (completion(prompt=[]), "prompt", "give a text"),
        (completion(prompt=[[]]), "prompt", "the prompt is empty"),
        (completion(prompt=[1, "a"]), "prompt", "give a text"),
        (completion(prompt={"a": 1}), "prompt", "give a text"),
        (completion(prompt=[True]), "prompt", "give a text"),
        (completion(prompt=[-1]), "prompt", "token -1 is not of the vocabulary"),
        (completion(prompt=[10**9]), "prompt", "is not of the vocabulary"),
        (completion(prompt=[3] * 200), "prompt", "has 200 tokens, and prompt and answer"),
        (completion(prompt="a" * 100_000), "prompt", "more than 128 tokens"),
        (completion(prompt=["a"] * 200), "prompt", "wants 200 answers"),
        (completion(n=0), "n", "greater than or equal to 1"),
        (completion(n=10**9), "prompt", "at most 128 at once"),
        (completion(max_tokens=-1), "max_tokens", "greater than or equal to 0"),
        (completion(max_tokens=1000), "max_tokens", "has at most 127 here"),
        (completion(max_tokens="3"), "max_tokens", "valid integer"),
        (completion(max_tokens=2.5), "max_tokens", "valid integer"),
        (completion(max_tokens=True), "max_tokens", "valid integer"),
        (completion(temperature=-1), "temperature", "from 0 to 100"),
        (completion(temperature=1e300), "temperature", "from 0 to 100"),
        (completion(top_p=0), "top_p", "above 0"),
        (completion(top_k=-5), "top_k", "from 0"),
        (completion(logprobs=500), "logprobs", "from 0 to 20"),
        (completion(seed=2**63 - 1, n=2), None, None),
        (completion(stop=["a"] * 17), "stop", "at most 16"),
        (completion(stop_token_ids=[1] * 9), "stop_ids", "at most 8"),
        (completion(stream_options={"x": 1}), "stream_options.x", "Extra inputs"),
        (completion(model=7), "model", "valid string"),
        (completion(model="../x"), "model", "'../x' does not exist"),
        (completion(model="a" * 100_000), "model", "does not exist"),
        ({"prompt": "a"}, "model", "is missing"),
        (chat(messages=[]), "messages", "at least 1 item"),
        (chat(messages=["a"]), "messages.0", "valid dictionary"),
        (chat(messages=[{"role": "user"}]), "messages.0.content", "is missing"),
        (chat(messages=[{"role": "king", "content": "a"}]), "messages.0.role", "'assistant'"),
        (chat(messages=[*MESSAGES, {"role": "assistant", "content": "b"}]), "messages", "leave"),
        (chat(tools=[{"type": "function"}]), "tools", "is not offered here"),
        (chat(response_format={"type": "json_object"}), "response_format", "is not offered"),
        (chat(top_logprobs=2), "top_logprobs", "needs logprobs=true"),
        (chat(max_completion_tokens=3), "max_completion_tokens", "give one of them"),
        (chat(logprobs=2), "logprobs", "valid boolean"),
    ],
)
def test_a_wrong_field_is_named(http, body, param, part):
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    found = post(http, path, body)
    if part is None:
        assert found.status_code == 200
        return
    assert found.status_code == (404 if "does not exist" in part else 400), found.text
    error = found.json()["error"]
    assert error["param"] == param
    assert part in error["message"]
    assert len(error["message"]) < 400
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", "no object"),
        ("null", "no object"),
        (b"\xff\xfe", "not JSON"),
        (DEEP, "inside one another"),
        ('{"a":' * 1000 + "1" + "}" * 1000, "inside one another"),
        ('{"model": "ana", "prompt": "a", "temperature": NaN}', "NaN is not a number"),
        ('{"model": "ana", "prompt": "a", "temperature": Infinity}', "Infinity is not a number"),
        ('{"model": "ana", "prompt": "a", "temperature": 1e999}', "beyond 64 bits"),
        ('{"model": "ana", "prompt": "a", "seed": 1' + "0" * 5000 + "}", "beyond 64 bits"),
        ('{"model": "ana", "model": "ben", "prompt": "a"}', "stands twice"),
        ('{"model": "ana", "prompt": "\\ud800"}', "surrogates not allowed"),
    ],
)
def test_what_is_no_json_is_told(http, data, part):
    found = post(http, "/v1/completions", data)
    assert found.status_code == 400
    assert part in found.json()["error"]["message"]


def test_a_body_beyond_the_limit_is_told_while_it_is_sent(http):
    found = post(http, "/v1/completions", completion(prompt="a" * 10_000_000))
    assert found.status_code == 413
    assert "more than 4,194,304 bytes" in found.json()["error"]["message"]

    def chunks():
        yield b"{"
        for _ in range(100):
            yield b" " * 100_000

    assert post_chunks(http, chunks()).status_code == 413


def post_chunks(http, chunks):
    kind = {"Content-Type": "application/json"}
    return http.post("/v1/completions", content=chunks, headers=kind)


def test_fields_without_effect_are_taken(http):
    extra = {"user": "u", "store": False, "metadata": {"a": "b"}, "presence_penalty": 0.0}
    found = post(http, "/v1/completions", completion(seed=1, **extra, suffix=None, logit_bias={}))
    plain = post(http, "/v1/completions", completion(seed=1))
    assert found.json()["choices"] == plain.json()["choices"]


def test_other_paths_methods_and_types_are_told(http):
    assert http.get("/v1/none").json()["error"]["message"] == "GET /v1/none: Not Found"
    assert http.get("/v1/completions").status_code == 405
    for path in ("/v1/models/%2e%2e%2fx", "/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/a%00"):
        assert http.get(path).status_code == 404, path
    for path in ("/page.py", "/%2e%2e/app.py", "/page%2f..%2f..%2fapp.py"):
        assert http.get(path).status_code == 404, path
    form = http.post("/v1/completions", data={"model": "ana"})
    assert (form.status_code, "send JSON" in form.text) == (415, True)
    for limit in ("0", "-1", "x", "10000", "9" * 5000, "٣"):
        found = http.get("/v1/models", params={"limit": limit})
        assert (found.status_code, found.json()["error"]["param"]) == (400, "limit")


def test_a_key_is_needed_for_the_api_alone(tokenizer):
    with serving(FakeEngine(len(tokenizer)), tokenizer, api_key="schlüssel") as (address, _):
        import httpx

        def status(path, *values):
            headers = [(b"authorization", value) for value in values]
            return httpx.get(address + path, headers=headers).status_code

        right = "Bearer schlüssel".encode()
        assert status("/v1/models", right) == 200
        assert status("/v1/models", b"bearer " + right[7:]) == 200
        wrong = (b"Bearer schl", b"Bearer", b"", b"Basic " + right[7:], right + b"x", right[7:])
        assert {status("/v1/models", each) for each in wrong} == {401}
        assert status("/v1/models") == status("/v1/models", right, right) == 401
        assert status("/v1") == 401
        assert {status(path) for path in ("/", "/page.js", "/health", "/metrics")} == {200}
        found = httpx.get(f"{address}/v1/models")
        assert found.headers["www-authenticate"] == "Bearer"
        assert found.json()["error"]["code"] == "invalid_api_key"


def test_adapters_go_out_of_service_and_come_back(tokenizer, http):
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    off = post(http, load, {"lora_name": "ana"})
    assert (off.status_code, "--allow-adapter-changes" in off.text) == (403, True)
    engine = FakeEngine(len(tokenizer))
    with serving(engine, tokenizer, adapter_changes=True) as (address, _):
        import httpx

        with httpx.Client(base_url=address) as client:

            def known():
                return [model["id"] for model in client.get("/v1/models").json()["data"]]

            out = post(client, unload, {"lora_name": "ana"})
            assert (out.status_code, "other servers of the store" in out.text) == (200, True)
            assert known() == ["base", "ben"]
            assert post(client, "/v1/completions", completion()).status_code == 404
            assert post(client, unload, {"lora_name": "ana"}).status_code == 404
            assert client.get("/v1/models/ana").status_code == 404
            found = post(client, load, {"lora_name": "ana", "lora_path": "/etc/passwd"})
            assert (found.status_code, "lora_path is a path" in found.text) == (400, True)
            for name in ("zoe", "../x", "base"):
                assert post(client, load, {"lora_name": name}).status_code == 404
            assert post(client, load, {"lora_name": "ana"}).status_code == 200
            assert known() == ["base", "ana", "ben"]
            assert post(client, "/v1/completions", completion()).status_code == 200
