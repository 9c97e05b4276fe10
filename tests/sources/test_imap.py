"""IMAP as a source, against a real Dovecot: what is new, and only that; nothing changed on the server."""

from __future__ import annotations

import base64
import hashlib
import socket
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import pytest
from servers.dovecot import PASSWORD, USER, Dovecot, cut_after, token
from servers.scripted_imap import MAIL, scripted

from jobs.contracts.errors import AccessError, MissingInputError, TransientError, UsageError
from jobs.contracts.records import Reject
from jobs.mail.limits import TOO_LARGE, Limits
from jobs.mail.mbox import RawMail
from jobs.sources.cursors import cursor_key
from jobs.sources.imap import ImapSource, parse_url
from jobs.sources.options import ReadOptions


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PASSWORD_FILE", "TOKEN", "TOKEN_FILE", "CA"):
        monkeypatch.delenv(f"REFRAIN_IMAP_{name}", raising=False)
    monkeypatch.setenv("REFRAIN_IMAP_PASSWORD", PASSWORD)


def mail(number: int, body: bytes = b"Hello.\r\n") -> bytes:
    return b"From: a@example.org\r\nMessage-ID: <%d@example.org>\r\nSubject: %d\r\n\r\n%b" % (number, number, body)


def put(dovecot: Dovecot, folder: str, *mails: bytes, flags: tuple[bytes, ...] = ()) -> None:
    client = dovecot.client()
    if not client.folder_exists(folder):
        client.create_folder(folder)
    for raw in mails:
        client.append(folder, raw, flags, datetime(2026, 3, 1, 12, 30, tzinfo=UTC))
    client.logout()


def read(dovecot: Dovecot, folder: str = "INBOX", options: ReadOptions | None = None) -> tuple[list, ReadOptions]:
    options = options or ReadOptions()
    options = ReadOptions(options.limits, cursors=options.cursors, imap_ca=str(dovecot.ca))
    return list(ImapSource.parse(dovecot.url(folder)).mails(options)), options


def test_mails_come_as_they_were_put_with_uid_date_and_flags(dovecot: Dovecot) -> None:
    put(dovecot, "INBOX", mail(1), flags=(b"\\Answered", b"\\Flagged", b"$Work"))
    put(dovecot, "INBOX", mail(2, b"8-bit \xe9\r\n"))
    found, options = read(dovecot)
    name = f"{USER}@127.0.0.1:{dovecot.imaps_port}/INBOX"
    first = found[0].offset
    assert found == [
        RawMail(mail(1), name, first, "2026-03-01T12:30:00Z", "INBOX", ("$Work", "Flagged", "Replied")),
        RawMail(mail(2, b"8-bit \xe9\r\n"), name, first + 1, "2026-03-01T12:30:00Z", "INBOX", ()),
    ]
    assert options.reached == {cursor_key(name): {"uidvalidity": mock.ANY, "uid": first + 1}}
    assert USER not in str(options.reached)  # the log keeps it for ever
    assert options.notes == []


def test_keywords_of_any_spelling_become_labels(dovecot: Dovecot) -> None:
    put(dovecot, "INBOX", mail(1), flags=(b"2024", b"007", b"NIL", b"$Work"))
    assert [item.labels for item in read(dovecot)[0]] == [("$Work", "007", "2024", "NIL")]


def test_nothing_changes_on_the_server(dovecot: Dovecot) -> None:
    put(dovecot, "INBOX", mail(1))
    client = dovecot.client()
    read(dovecot)
    state = client.select_folder("INBOX", readonly=True)
    uids = client.search("ALL")
    assert client.fetch(uids, ["FLAGS"])[uids[0]][b"FLAGS"] in ((), (b"\\Recent",))
    assert state[b"RECENT"] == 1, "EXAMINE leaves mail recent"
    client.logout()


def test_only_what_is_new_comes_after_a_cursor(dovecot: Dovecot) -> None:
    put(dovecot, "INBOX", mail(1), mail(2))
    _, before = read(dovecot)
    again, unchanged = read(dovecot, options=ReadOptions(cursors=before.reached))
    assert again == []
    assert unchanged.reached == before.reached
    put(dovecot, "INBOX", mail(3))
    new, after = read(dovecot, options=ReadOptions(cursors=before.reached))
    assert [item.raw for item in new] == [mail(3)]
    (key,) = after.reached
    assert after.reached[key]["uid"] == before.reached[key]["uid"] + 1


def test_a_deleted_mail_at_the_end_is_not_waited_for(dovecot: Dovecot) -> None:
    put(dovecot, "INBOX", mail(1), mail(2))
    client = dovecot.client()
    client.select_folder("INBOX")
    last = max(client.search("ALL"))
    client.delete_messages([last])
    client.expunge()
    client.logout()
    found, options = read(dovecot)
    assert [item.raw for item in found] == [mail(1)]
    assert next(iter(options.reached.values()))["uid"] == last


def test_a_folder_with_a_new_uidvalidity_starts_over_and_says_so(dovecot: Dovecot) -> None:
    put(dovecot, "Lists", mail(1), mail(2))
    _, before = read(dovecot, "Lists")
    client = dovecot.client()
    client.delete_folder("Lists")
    client.logout()
    put(dovecot, "Lists", mail(7))
    found, after = read(dovecot, "Lists", ReadOptions(cursors=before.reached))
    assert [item.raw for item in found] == [mail(7)]
    (key,) = after.reached
    assert after.reached[key]["uidvalidity"] != before.reached[key]["uidvalidity"]
    assert len(after.notes) == 1
    assert "UIDVALIDITY" in after.notes[0]
    assert key == cursor_key(after.notes[0].partition(": ")[0])


def test_a_pattern_names_several_folders_read_by_name(dovecot: Dovecot) -> None:
    put(dovecot, "Lists/raid", mail(1))
    put(dovecot, "Lists/Ärger", mail(2))
    put(dovecot, "Other", mail(3))
    found, options = read(dovecot, "Lists/*")
    assert [(item.folder, item.raw) for item in found] == [("Lists/raid", mail(1)), ("Lists/Ärger", mail(2))]
    assert len(options.reached) == 2
    with pytest.raises(MissingInputError, match="no folder matches"):
        read(dovecot, "Nothing*")


def test_many_mails_come_in_order_in_several_batches(dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.sources.imap.BATCH_MAILS", 4)
    monkeypatch.setattr("jobs.sources.imap.MIN_UIDS_SEARCHED", 3)
    put(dovecot, "INBOX", *(mail(number) for number in range(25)))
    client = dovecot.client()
    client.select_folder("INBOX")
    uids = client.search("ALL")
    client.delete_messages(uids[5:15])
    client.expunge()
    client.logout()
    found, _ = read(dovecot)
    assert [item.raw for item in found] == [mail(number) for number in [*range(5), *range(15, 25)]]


def test_a_mail_over_the_limit_is_rejected_with_its_digest(dovecot: Dovecot) -> None:
    large = mail(2, b"x" * 3_000_000 + b"\r\n")
    put(dovecot, "INBOX", mail(1), large, mail(3))
    found, options = read(dovecot, options=ReadOptions(Limits(max_message_bytes=100_000)))
    assert [item.raw for item in found if isinstance(item, RawMail)] == [mail(1), mail(3)]
    (reject,) = [item for item in found if isinstance(item, Reject)]
    assert (reject.length, reject.sha256, reject.reason) == (len(large), hashlib.sha256(large).hexdigest(), TOO_LARGE)
    assert next(iter(options.reached.values()))["uid"] == found[-1].offset


# ---- who may read


def test_wrong_password(dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFRAIN_IMAP_PASSWORD", "wrong")
    with pytest.raises(AccessError, match="refused the credentials"):
        read(dovecot)


@pytest.mark.parametrize(("user", "secret"), [("reader", "päss wörd"), ("léa", "secret")])
def test_a_name_and_a_password_of_any_characters(user: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFRAIN_IMAP_PASSWORD", secret)
    heard: list[str] = []
    with scripted({}, heard) as port:
        found = list(ImapSource.parse(f"imap://{quote(user)}@127.0.0.1:{port}/").mails(ReadOptions()))
    assert [item.raw for item in found] == [MAIL]
    said = heard[heard.index("AUTHENTICATE PLAIN") + 1]
    assert base64.b64decode(said).decode() == f"\0{user}\0{secret}"


def test_no_password_at_all(dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFRAIN_IMAP_PASSWORD")
    with pytest.raises(AccessError, match="no password") as caught:
        read(dovecot)
    assert "REFRAIN_IMAP_PASSWORD_FILE" in str(caught.value)


def test_a_password_from_a_mounted_file(dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("REFRAIN_IMAP_PASSWORD", "wrong")
    monkeypatch.setenv("REFRAIN_IMAP_PASSWORD_FILE", str(secret))
    assert read(dovecot)[0] == []
    monkeypatch.setenv("REFRAIN_IMAP_PASSWORD_FILE", str(tmp_path / "missing"))
    with pytest.raises(AccessError, match="REFRAIN_IMAP_PASSWORD_FILE"):
        read(dovecot)


def test_an_oauth_token(dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFRAIN_IMAP_PASSWORD")
    put(dovecot, "INBOX", mail(1))
    monkeypatch.setenv("REFRAIN_IMAP_TOKEN", token())
    assert [item.raw for item in read(dovecot)[0]] == [mail(1)]
    monkeypatch.setenv("REFRAIN_IMAP_TOKEN", token()[:-4] + "AAAA")
    with pytest.raises(AccessError, match="refused the credentials"):
        read(dovecot)


def test_a_certificate_that_nobody_vouches_for(dovecot: Dovecot) -> None:
    with pytest.raises(AccessError, match="certificate") as caught:
        list(ImapSource.parse(dovecot.url()).mails(ReadOptions()))
    assert "--imap-ca" in str(caught.value)


# ---- when it fails


def test_a_folder_that_is_not_there(dovecot: Dovecot) -> None:
    with pytest.raises(MissingInputError, match="Nowhere"):
        read(dovecot, "Nowhere")


def test_a_server_that_is_not_there(dovecot: Dovecot) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(TransientError, match="connection failed"):
        list(ImapSource.parse(dovecot.url(port=port)).mails(ReadOptions(imap_ca=str(dovecot.ca))))


def test_a_server_gone_midway(dovecot: Dovecot) -> None:
    put(dovecot, "INBOX", *(mail(number, b"line\r\n" * 5000) for number in range(20)))
    options = ReadOptions(imap_ca=str(dovecot.ca))
    with cut_after(dovecot.imaps_port, 200_000) as port, pytest.raises(TransientError, match="connection failed"):
        list(ImapSource.parse(dovecot.url(port=port)).mails(options))
    assert options.reached == {}


# ---- what a server says


def read_scripted(answers: dict[str, str], folder: str = "INBOX", heard: list[str] | None = None) -> list:
    with scripted(answers, heard) as port:
        return list(ImapSource.parse(f"imap://{USER}@127.0.0.1:{port}/{folder}").mails(ReadOptions()))


@pytest.mark.parametrize(
    ("listed", "folder", "opened"),
    [
        ("R&D", "R&D", "R&D"),  # of a server that hands on the names of a Maildir
        ("R&-D", "R&D", "R&-D"),
        ("Entw&APw-rfe", "Entwürfe", "Entw&APw-rfe"),
        ("2024", "2024", "2024"),
    ],
)
def test_a_folder_is_opened_by_the_name_that_its_server_gives_it(listed: str, folder: str, opened: str) -> None:
    heard: list[str] = []
    found = read_scripted({"LIST": f'* LIST () "/" {listed}\r\nOK done'}, "*", heard)
    assert [(item.folder, item.raw) for item in found] == [(folder, MAIL)]
    assert f'EXAMINE "{opened}"' in heard


def test_a_folder_that_is_named_is_spelt_for_the_server() -> None:
    heard: list[str] = []
    assert [item.folder for item in read_scripted({}, "Entw%C3%BCrfe%20R&D", heard)] == ["Entwürfe R&D"]
    assert 'EXAMINE "Entw&APw-rfe R&-D"' in heard


# ---- URLs


def test_urls() -> None:
    account, folder = parse_url("imaps://first.last%40example.org@mail.example.org/Lists/Linux%20RAID")
    assert (account.user, account.host, account.port, account.tls) == (
        "first.last@example.org",
        "mail.example.org",
        993,
        True,
    )
    assert folder == "Lists/Linux RAID"
    assert parse_url("imaps://me@mail.example.org")[1] == "INBOX"
    assert str(parse_url("imaps://me@mail.example.org:1993")[0]) == "me@mail.example.org:1993"
    assert parse_url("imap://me@localhost/")[0].port == 143
    assert parse_url("imap://me@[::1]/")[0].host == "::1"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("imaps://me:secret@mail.example.org/INBOX", "password"),
        ("imap://me@mail.example.org/INBOX", "unencrypted"),
        ("imaps://mail.example.org/INBOX", "not a mailbox"),
        ("imaps:///INBOX", "not a mailbox"),
        ("imaps://me@mail.example.org:port/", "not a mailbox"),
    ],
)
def test_urls_that_are_refused(url: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
