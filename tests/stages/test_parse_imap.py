"""Parsing IMAP folders from week to week: only what is new, and nothing lost where a run fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from parsing import ids, mail
from servers.dovecot import PASSWORD, Dovecot

from jobs.contracts.errors import InputError, RefrainError
from jobs.files import read_records
from jobs.stages import Inputs, Outputs
from jobs.stages.parse import Config, run


@pytest.fixture
def imap(dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch) -> Dovecot:
    for name in ("PASSWORD_FILE", "TOKEN", "TOKEN_FILE"):
        monkeypatch.delenv(f"REFRAIN_IMAP_{name}", raising=False)
    monkeypatch.setenv("REFRAIN_IMAP_PASSWORD", PASSWORD)
    return dovecot


def fetched(imap: Dovecot, folder: Path, *more: str) -> tuple[list[str], dict[str, Any]]:
    cursor = folder / "cursor.json"
    inputs = Inputs({"cursor": [cursor]} if cursor.exists() else {})
    outputs = Outputs({"messages": folder / "messages.jsonl", "cursor": cursor})
    result = run(Config((imap.url(), *more), imap_ca=str(imap.ca), workers=1), inputs, outputs)
    return ids(list(read_records(outputs["messages"]))), result


def append(imap: Dovecot, *numbers: int) -> None:
    client = imap.client()
    for number in numbers:
        client.append("INBOX", mail(number).replace(b"\n", b"\r\n"))
    client.logout()


def test_imap_from_week_to_week(imap: Dovecot, tmp_path: Path) -> None:
    assert fetched(imap, tmp_path)[0] == []
    append(imap, 1, 2)
    assert fetched(imap, tmp_path)[0] == ["1", "2"]
    cursor = (tmp_path / "cursor.json").read_bytes()
    assert fetched(imap, tmp_path)[0] == []
    assert (tmp_path / "cursor.json").read_bytes() == cursor
    append(imap, 3)
    assert fetched(imap, tmp_path)[0] == ["3"]


def test_the_cursor_stays_where_a_run_fails(imap: Dovecot, tmp_path: Path) -> None:
    append(imap, 1)
    fetched(imap, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    append(imap, 2)
    with pytest.raises(RefrainError, match="Nowhere"):
        fetched(imap, tmp_path, imap.url("Nowhere"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert fetched(imap, tmp_path)[0] == ["2"]


def test_a_cursor_of_other_mailboxes_is_kept(imap: Dovecot, tmp_path: Path) -> None:
    other = {"someone@else.example/INBOX": {"uidvalidity": 7, "uid": 12}}
    (tmp_path / "cursor.json").write_bytes(orjson.dumps(other))
    append(imap, 1)
    fetched(imap, tmp_path)
    assert orjson.loads((tmp_path / "cursor.json").read_bytes()).items() > other.items()


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"a": {"uid": "1", "uidvalidity": 1}}', "nonsense"])
def test_a_file_that_is_no_cursor(text: str, tmp_path: Path) -> None:
    (tmp_path / "cursor.json").write_text(text)
    with pytest.raises(InputError, match=r"cursor\.json"):
        run(Config(()), Inputs({"cursor": [tmp_path / "cursor.json"]}), Outputs({"messages": tmp_path / "m.jsonl"}))
