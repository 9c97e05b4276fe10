"""Listing folders: Maildirs with their subfolders and flags, and any other files; nothing is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.contracts.errors import InputError, MissingInputError
from jobs.sources.folders import MailFile, walk


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"Subject: x\n\nHi.\n")


def named(root: Path) -> dict[str, MailFile]:
    found = list(walk(root))
    assert len({file.name for file in found}) == len(found)
    return {file.name: file for file in found}


def test_a_maildir_with_subfolders_in_both_layouts(tmp_path: Path) -> None:
    put(tmp_path, "cur/1.a:2,S", "new/2.b", ".Lists.raid/cur/3.c:2,", ".Entw&APw-rfe/new/4.d", "fs/deep/cur/5.e:2,RS")
    for folder in (".Lists.raid", ".Entw&APw-rfe", "fs/deep"):
        for sub in ("cur", "new", "tmp"):
            (tmp_path / folder / sub).mkdir(exist_ok=True)
    assert {name: file.folder for name, file in named(tmp_path).items()} == {
        "1.a": "INBOX",
        "2.b": "INBOX",
        "Lists/raid/3.c": "Lists/raid",
        "Entwürfe/4.d": "Entwürfe",
        "fs/deep/5.e": "fs/deep",
    }


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("R&D", "R&D"),
        ("AT&T.R&-D", "AT&T/R&D"),
        ("Q&A stuff", "Q&A stuff"),
        ("a&b&c.Entw&APw-rfe", "a&b&c/Entwürfe"),
        ("R&", "R&"),
        ("R&D-Team", "R&D-Team"),
        ("Entwürfe", "Entwürfe"),
        ("&2AA-", "&2AA-"),  # half of a character
        ("&2D3cqQ-&-&AOQ-", "\U0001f4a9&ä"),
    ],
)
def test_a_maildirs_folder_is_called_as_it_stands_where_that_is_no_modified_utf7(
    name: str, folder: str, tmp_path: Path
) -> None:
    put(tmp_path, "new/1.a", f".{name}/cur/2.b:2,S", f".{name}/new/3.c")
    (tmp_path / "cur").mkdir()
    assert {name: file.folder for name, file in named(tmp_path).items()} == {
        "1.a": "INBOX",
        f"{folder}/2.b": folder,
        f"{folder}/3.c": folder,
    }


def test_flags_become_labels_and_leave_the_name(tmp_path: Path) -> None:
    put(tmp_path, "cur/1.a:2,FRST", "cur/2.b:2,", "cur/3.c", "cur/4.d:2,DPa", "new/5.e")
    found = named(tmp_path)
    assert {name: file.labels for name, file in found.items()} == {
        "1.a": ("Flagged", "Replied", "Seen", "Trashed"),
        "2.b": (),
        "3.c": (),
        "4.d": ("Draft", "Passed"),
        "5.e": (),
    }


def test_reading_a_mail_changes_neither_its_name_nor_its_place(tmp_path: Path) -> None:
    put(tmp_path, "new/1.a", "new/2.b", "cur/3.c:2,S")
    before = [file.name for file in walk(tmp_path)]
    (tmp_path / "new/2.b").rename(tmp_path / "cur/2.b:2,FS")
    assert [file.name for file in walk(tmp_path)] == before == ["1.a", "2.b", "3.c"]


def test_the_name_of_a_maildirs_file_says_when_it_came(tmp_path: Path) -> None:
    put(tmp_path, "new/1204680122.27c448.host", "new/short.1", "cur/12046801221234.x:2,")
    assert {name: file.envelope_date for name, file in named(tmp_path).items()} == {
        "1204680122.27c448.host": "2008-03-05T01:22:02Z",
        "short.1": None,
        "12046801221234.x": None,
    }


def test_an_unfinished_delivery_is_told(tmp_path: Path) -> None:
    put(tmp_path, "cur/1.a:2,", "new/2.b", "tmp/3.c")
    assert [(file.name, file.unfinished) for file in walk(tmp_path)] == [("1.a", False), ("2.b", False), ("3.c", True)]


def test_a_folder_of_files(tmp_path: Path) -> None:
    put(tmp_path, "b.eml", "a/x.eml", "a/tmp/y.mbox", ".hidden")
    assert [(file.name, file.folder) for file in walk(tmp_path)] == [
        (".hidden", None),
        ("b.eml", None),
        ("a/x.eml", "a"),
        ("a/tmp/y.mbox", "a/tmp"),
    ]


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    put(tmp_path, "real/1.eml", "other/2.eml")
    (tmp_path / "real/loop").symlink_to(tmp_path)
    (tmp_path / "real/there").symlink_to(tmp_path / "other")
    (tmp_path / "real/3.eml").symlink_to(tmp_path / "other/2.eml")
    (tmp_path / "real/gone.eml").symlink_to(tmp_path / "nowhere")
    found = named(tmp_path / "real")
    assert {name for name, file in found.items() if file.regular} >= {"1.eml", "3.eml", "there/2.eml"}
    assert not found["gone.eml"].regular
    assert all(name.count("loop") <= 1 for name in found)


@pytest.mark.parametrize("sub", ["", "cur/"])
def test_links_that_lead_nowhere_are_told(sub: str, tmp_path: Path) -> None:
    put(tmp_path, f"{sub}1.eml")
    (tmp_path / "new").mkdir()
    (tmp_path / f"{sub}itself").symlink_to("itself")
    (tmp_path / f"{sub}long").symlink_to("x" * 300)
    assert {name: file.regular for name, file in named(tmp_path).items()} == {
        "1.eml": True,
        "itself": False,
        "long": False,
    }


def test_pipes_are_told_and_names_of_any_bytes_are_taken(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.eml")).write_bytes(b"x")
    assert [(file.name, file.regular) for file in walk(tmp_path)] == [("caf\ufffd.eml", True), ("pipe", False)]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file or folder"):
        list(walk(tmp_path / "gone"))
    put(tmp_path, "file")
    with pytest.raises(InputError, match="cannot be read: Not a directory"):
        list(walk(tmp_path / "file"))
