"""The benchmarks of serving: requests to an engine and to a server, and small runs of both."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from benchmarks import rounding, serving
from benchmarks.served import clients
from benchmarks.served.clients import Job
from tera_jax.serve.requests import Finish, Token


class Engine:
    """Answers each request at once; ``bad`` with an error."""

    def submit(self, request, listener):
        if request.adapter == "bad":
            return listener(Finish("error", "no such thing"))
        for number in range(request.sampling.max_tokens):
            listener(Token(number))
        listener(Finish("length"))


class Handler(BaseHTTPRequestHandler):
    """A server that streams as OpenAI's does."""

    seen: ClassVar[list[dict[str, object]]] = []

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(given)
        self.send_response(404 if given["model"] == "bad" else 200)
        self.end_headers()
        for _ in range(given["max_tokens"]):
            self.wfile.write(b'data: {"choices": [{"text": "a"}]}\n\n')
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    with ThreadingHTTPServer(("localhost", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def test_every_request_is_sent_and_timed(url):
    jobs = [Job((1, 2), None if n % 2 else f"n{n}", 3) for n in range(9)]
    for ask in (clients.of_engine(Engine()), clients.of_server(url, "base")):
        timings, seconds = clients.at_once(ask, jobs, 4)
        assert [timing.tokens for timing in timings] == [3] * 9
        assert all(0 < timing.first <= timing.whole <= seconds for timing in timings)
    models = sorted(str(given["model"]) for given in Handler.seen)
    assert models == ["base"] * 4 + ["n0", "n2", "n4", "n6", "n8"]
    assert Handler.seen[0]["prompt"] == [1, 2]


def test_a_request_that_fails_ends_the_run(url):
    jobs = [Job((1,), "bad", 3)] * 3
    with pytest.raises(ValueError, match="bad ended with error: no such thing"):
        clients.at_once(clients.of_engine(Engine()), jobs, 2)
    with pytest.raises(ValueError, match="says 404"):
        clients.at_once(clients.of_server(url, "base"), jobs, 2)


@pytest.mark.long
def test_traffic_in_small(tmp_path, monkeypatch, capsys):
    sizes = ("--adapters=20", "--requests=6", "--rounds=2", "--concurrency=2", "--reads=4")
    flags = [f"--store={tmp_path / 's'}", "--model=tiny", "--prompt=4", "--answer=4", *sizes]
    monkeypatch.setattr(sys, "argv", ["serving", *flags])
    serving.main()
    shown = capsys.readouterr().out.splitlines()
    for kind in ("base", "cold", "warm", "adapters"):
        assert any(line.startswith(f"| {kind} |") for line in shown)
    assert any(line.startswith("adapters to base: ") for line in shown)
    assert any("20 adapters put" in line for line in shown)


@pytest.mark.long
def test_rounding_in_small(monkeypatch, capsys):
    flags = ["--cases=vera", "--adapters=2", "--rows=1", "--length=8"]
    monkeypatch.setattr(sys, "argv", ["rounding", *flags])
    rounding.main()
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "vera" in line]
    change, lost = (float(cell) for cell in row.split("|")[2:4])
    assert 0 < lost < change / 10
