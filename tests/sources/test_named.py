"""What the names of sources mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.contracts.errors import MissingInputError, UsageError
from jobs.sources.named import FileSource, FolderSource, parse_source


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "new mail.mbox"
    path.touch()
    assert parse_source(path.as_uri()) == FileSource(path)  # %20
    assert parse_source(tmp_path.as_uri()) == FolderSource(tmp_path)


@pytest.mark.parametrize("text", ["file://-", "file://mail.mbox", "ftp://host/mail.mbox"])
def test_other_urls_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_source(text)


@pytest.mark.parametrize("text", ["none.mbox", "file:///none.mbox"])
def test_a_file_that_is_not_there(text: str) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        parse_source(text)
