"""Base models from a hub: a small server that speaks as the Hugging Face Hub does, on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("torch")

from servers.s3 import free_port

from jobs.contracts.errors import AccessError, ConfigError, MissingInputError, RefrainError, TransientError
from jobs.ml.base_model import find_base

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "somebody/tiny"


class _Hub(BaseHTTPRequestHandler):
    folder: Path
    names: list[str]
    token: str | None
    refuses: int | None
    asked: list[str]

    def log_message(self, *_args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:  # noqa: PLR0911 - one for each kind of answer
        self.asked.append(f"{self.command} {self.path}")
        if self.refuses:
            return self._answer(self.refuses, b"{}")
        if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            return self._answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{NAME}"):
            if path == f"/api/models/{NAME}/tree/{COMMIT}":
                return self._answer(200, json.dumps([self._entry(name) for name in self.names]).encode())
            revision = path.removeprefix(f"/api/models/{NAME}").removeprefix("/revision/") or "main"
            if revision not in ("main", COMMIT):
                return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            files = [{"rfilename": name} for name in self.names]
            return self._answer(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": files}).encode())
        prefix = f"/{NAME}/resolve/{COMMIT}/"
        if path.startswith(prefix) and (self.folder / path.removeprefix(prefix)).is_file():
            return self._answer(200, (self.folder / path.removeprefix(prefix)).read_bytes())
        return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _entry(self, name: str) -> dict[str, object]:
        path = self.folder / name
        return {"type": "file", "path": name, "oid": COMMIT, "size": path.stat().st_size if path.is_file() else 0}

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        etag = hashlib.sha256(data).hexdigest()
        given = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Content-Length": str(len(data))} | (headers or {})
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def hub(base_folder, tmp_path, monkeypatch) -> Iterator[type[_Hub]]:
    """The base model as `somebody/tiny`, with a cache of one's own."""
    names = [*sorted(path.name for path in base_folder.iterdir()), "original/model.safetensors", "README.md"]
    handler = type(
        "Handler", (_Hub,), {"folder": base_folder, "names": names, "token": None, "refuses": None, "asked": []}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield handler
    server.shutdown()
    server.server_close()


def fetched(hub) -> list[str]:
    return [line.rpartition("/")[2] for line in hub.asked if line.startswith("GET") and "/resolve/" in line]


def test_a_name_becomes_a_commit(hub, base, capfd):
    found = find_base(NAME)
    assert (found.name, found.revision, found.digest) == (NAME, COMMIT, base.digest)
    assert "model.safetensors" in fetched(hub)
    assert "README.md" not in fetched(hub)
    assert not any("original" in line for line in hub.asked)
    assert capfd.readouterr() == ("", "")
    hub.asked.clear()
    for name, revision in ((NAME, COMMIT), (NAME, "main"), (f"{NAME}@{COMMIT}", None)):
        again = find_base(name, revision)
        assert (again.name, again.revision, again.folder) == (NAME, COMMIT, found.folder)
    assert fetched(hub) == []


def test_a_private_model_is_opened_by_the_token(hub, base, monkeypatch):
    hub.token = "hf_secret"
    with pytest.raises(MissingInputError, match="no such model") as raised:
        find_base(NAME)
    assert "HF_TOKEN" in raised.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert find_base(NAME).digest == base.digest


@pytest.mark.parametrize(
    ("name", "revision", "kind"),
    [
        ("somebody/else", None, MissingInputError),
        (NAME, "v2", MissingInputError),
        ("not a name", None, MissingInputError),
    ],
)
def test_what_is_not_there(hub, name, revision, kind):
    with pytest.raises(kind):
        find_base(name, revision)


@pytest.mark.parametrize(("status", "kind"), [(403, AccessError), (500, TransientError), (429, TransientError)])
def test_a_hub_that_refuses(hub, status, kind):
    hub.refuses = status
    with pytest.raises(kind, match=str(status)):
        find_base(NAME)


def test_pickled_weights_are_not_even_fetched(hub):
    hub.names = ["config.json", "pytorch_model.bin", "tokenizer.json"]
    with pytest.raises(ConfigError, match="pickled"):
        find_base(NAME)
    assert fetched(hub) == []


def test_without_a_network_what_was_fetched_before_is_taken(hub, base, monkeypatch):
    find_base(NAME)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    for revision in (None, COMMIT):
        found = find_base(NAME, revision)
        assert (found.revision, found.digest) == (COMMIT, base.digest)
    with pytest.raises(TransientError, match="cannot be reached") as raised:
        find_base("somebody/else")
    assert "folder" in raised.value.hint


def test_offline_nothing_is_asked(hub, base, monkeypatch):
    find_base(NAME)
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_base(NAME).digest == base.digest
    with pytest.raises(RefrainError, match="cannot be reached"):
        find_base("somebody/else")
    assert hub.asked == []
