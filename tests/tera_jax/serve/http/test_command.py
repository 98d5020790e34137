"""The command in processes: what it refuses, how it ends, and two of it behind a router."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import openai
import pytest

from benchmarks.soak_world import make
from tera_jax.serve.store import Store
from tests.tera_jax.serve.http.processes import ROOT, started

pytestmark = pytest.mark.long
FLAGS = ("--slots=4", "--max-length=96", "--dtype=float32")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def drawn(place):
    return make(place, 20)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--store=none"], "none/store.json does not exist"),
        (["--store=store", "--adapter=one"], "--store and --adapter were both given"),
        (["--store=store", "--served-name=n3"], "choose --served-name"),
        (["--adapter=store"], "holds neither adapter.json nor adapter_config.json"),
        (["--max-length=999"], "context is 256"),
        (["--slots=0"], "slots is 0"),
        (["--port=70000"], "cannot be listened at"),
        (["--mesh=x=2"], "has an axis 'x'"),
        (["--api-key="], "--api-key is empty"),
        (["--drain-seconds=nan"], "--drain-seconds is nan"),
        (["--max-prompts=0"], "prompts is 0"),
    ],
)
def test_a_wrong_flag_is_one_line(place, drawn, flags, part):
    command = [sys.executable, "-m", "tera_jax.serve", "--model=tiny", "--port=0", *flags]
    found = subprocess.run(
        command,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 2, found.stderr
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: ")
    assert part in line


def test_a_signal_ends_the_answers_first(place, drawn):
    flags = (f"--adapter={place / 'one'}", "--served-name=base", *FLAGS)
    with started(place, *flags) as (process, address):
        with openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client:
            assert [model.id for model in client.models.list()] == ["base", "one"]
            stream = client.completions.create(
                model="one",
                prompt="the cat",
                max_tokens=80,
                stream=True,
                extra_body={"ignore_eos": True},
                stream_options={"include_usage": True},
            )
            next(stream)
            process.send_signal(signal.SIGTERM)
            *_, last = stream
            assert last.usage.completion_tokens == 80
        assert process.wait(60) == 0


def test_two_servers_of_one_store_behind_a_router(place, drawn):
    store = f"--store={place / 'store'}"
    with (
        started(place, store, *FLAGS) as (first, one),
        started(place, store, *FLAGS) as (second, two),
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        port = free.getsockname()[1]
        free.close()
        addresses = [address.removeprefix("http://") for address in (one, two)]
        command = [sys.executable, str(ROOT / "examples/serving/router.py"), f"--port={port}"]
        with subprocess.Popen([*command, *addresses]) as router:
            try:
                through(f"http://127.0.0.1:{port}", one, two, first, second, place, drawn)
            finally:
                router.kill()


def through(address, one, two, first, second, place, drawn):
    """Both answer alike; a new adapter is known to both; one ends, and the other goes on."""

    def ask(base=address, model="n3", **fields):
        body = {"model": model, "prompt": "the cat", "max_tokens": 8, "temperature": 0, **fields}
        found = httpx.post(f"{base}/v1/completions", json=body, timeout=60)
        return found.status_code, found.json()

    end = time.monotonic() + 120
    while True:
        try:
            httpx.get(f"{address}/health")
            break
        except httpx.TransportError:
            assert time.monotonic() < end
            time.sleep(0.1)
    texts = {ask()[1]["choices"][0]["text"] for _ in range(6)}
    assert texts == {ask(base)[1]["choices"][0]["text"] for base in (one, two)}
    served = [httpx.get(f"{base}/metrics").text for base in (one, two)]
    assert all('path="/v1/completions",status="200"} 4.0' in text for text in served)
    assert ask(model="new")[0] == 404
    with Store.open(place / "store") as store:
        store.put("new", drawn(77))
    assert [ask(model="new")[0] for _ in range(4)] == [200] * 4
    first.send_signal(signal.SIGTERM)
    assert [ask()[0] for _ in range(10)].count(200) >= 9  # one may come as the first one ends
    assert first.wait(60) == 0
    assert [ask()[0] for _ in range(6)] == [200] * 6
    assert second.poll() is None
