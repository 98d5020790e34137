"""Exports that are sent to a hub: a local server that speaks what a push needs of its HTTP."""

import base64
import http.server
import json
import threading

import huggingface_hub
import pytest

from train import export, hub, model_card
from train.training import run as runs

TOKEN = "hf_secret-of-the-tests"
NAME = "me/tuned"


class Fake(http.server.BaseHTTPRequestHandler):
    """A hub with one repository at most; the state is the server's."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body):
        server, path = self.server, self.path.partition("?")[0]
        server.requests.append((self.command, path, body))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.send(401, {"error": "Invalid credentials"})
        if path == "/api/whoami-v2":
            return self.send(200, {"name": "me", "type": "user"})
        if path == f"/api/models/{NAME}" and server.repository is not None:
            return self.send(200, server.repository)
        if path == "/api/repos/create" and server.repository is not None:
            return self.send(409, {"error": "there", "url": f"{server.address}/{NAME}"})
        if path == "/api/repos/create" and server.creates:
            server.repository = {"id": NAME, **json.loads(body), "siblings": []}
            return self.send(200, {"url": f"{server.address}/{NAME}"})
        if path == f"/{NAME}/resolve/main/README.md":
            return self.send(200, server.card.encode())
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if path == f"/api/models/{NAME}/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.send(200, {"files": files})
        if path == f"/api/models/{NAME}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    server.files[line["value"]["path"]] = content
            url = f"{server.address}/{NAME}/commit/{'a' * 40}"
            return self.send(200, {"success": True, "commitOid": "a" * 40, "commitUrl": url})
        if path == "/api/repos/create":
            return self.send(403, {"error": "no right"})
        return self.send(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})

    def send(self, status, content, headers=()):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {**dict(headers), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch):
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    found.address = f"http://127.0.0.1:{found.server_address[1]}"
    found.repository, found.requests, found.files = None, [], {}
    found.creates, found.card = True, "mine"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.hf_api.constants, "ENDPOINT", found.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "export"
    path.mkdir()
    (path / "model.gguf").write_bytes(b"weights")
    (path / "README.md").write_text(f"---\ntags: []\n---\n{model_card._MARK}\ncard")
    return path


def test_all_files_go_into_a_private_repository(server, directory):
    repository = hub.require_login(NAME, endpoint=server.address)
    assert server.repository is None  # nothing is created before the export
    assert hub.push(repository, directory) == f"{server.address}/{NAME}"
    assert server.repository["visibility"] == "private"
    assert server.files == {file.name: file.read_bytes() for file in directory.iterdir()}
    server.repository = None
    hub.push(hub.require_login(NAME, public=True, endpoint=server.address), directory)
    assert server.repository["visibility"] == "public"


def test_another_card_stays_and_ours_is_written_again(server, directory):
    server.repository = {"id": NAME, "private": True, "siblings": [{"rfilename": "README.md"}]}
    hub.push(hub.require_login(NAME, endpoint=server.address), directory)
    assert set(server.files) == {"model.gguf"}
    server.card = f"{model_card._MARK} of an earlier export"
    hub.push(hub.require_login(NAME, endpoint=server.address), directory)
    assert set(server.files) == {"model.gguf", "README.md"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "tuned"}, "--push='tuned' is no name on the hub; give it as owner/name"),
        ({"name": "a/b/c"}, "is no name on the hub"),
        ({"token": None}, "needs a login, and the environment variable HF_TOKEN is not set"),
        ({"token": "hf_other-secret"}, "the token in HF_TOKEN was refused .* .status 401.; give"),
        ({"token": "hf_other-secret\nx"}, "the token in HF_TOKEN"),
        ({"private": False}, "is there and public; add --public, or choose another name"),
        ({"endpoint": "http://127.0.0.1:9"}, "127.0.0.1:9 gave no answer .ConnectError.; try"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_the_export(
    change, message, server, finished, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(runs, "build", None)
    given = {"name": NAME, "token": TOKEN, "endpoint": server.address, "private": True, **change}
    if given["token"] is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", given["token"])
    monkeypatch.setattr(huggingface_hub.hf_api.constants, "ENDPOINT", given["endpoint"])
    server.repository = {"id": NAME, "private": given["private"], "siblings": []}
    flags = [f"--workdir={finished[1]}", "--format=adapter", f"--output={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match=message) as error:
        export.main([*flags, f"--push={given['name']}"])
    assert "secret" not in f"{error.value}{error.value.__cause__}"
    assert "secret" not in "".join(capfd.readouterr())
    assert not list(tmp_path.iterdir())
    assert not [each for each in server.requests if each[0] == "POST"]
    with pytest.raises(ValueError, match="--public says who may read what --push creates"):
        export.main([*flags, "--public"])


def test_a_push_that_is_refused_says_where_the_export_is(server, directory):
    server.creates = False
    repository = hub.require_login(NAME, endpoint=server.address)
    with pytest.raises(ValueError, match=r"export is written, but --push=me/tuned .*status 403"):
        hub.push(repository, directory)


@pytest.mark.long
def test_the_command_exports_and_pushes(server, finished, tmp_path, capsys):
    flags = [f"--workdir={finished[1]}", "--format=adapter", f"--output={tmp_path / 'out'}"]
    export.main([*flags, f"--push={NAME}"])
    report = capsys.readouterr()
    assert json.loads(report.out)["url"] == f"{server.address}/{NAME}"
    assert set(server.files) == {"adapter.json", "adapter.safetensors", "README.md"}
    assert "secret" not in report.out + report.err
    assert b"secret" not in server.files["README.md"]
