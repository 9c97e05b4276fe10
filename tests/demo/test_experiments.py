"""The experiments' own parts: mail sorted into weeks, secrets planted."""

from __future__ import annotations

import mailbox
import math
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "benchmarks" / "experiments"


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(EXPERIMENTS), str(EXPERIMENTS.parent)])


def entry(number: int, date: str | None) -> str:
    dated = f"Date: {date}\n" if date else ""
    head = f"From ann@list.example Mon Jul  1 00:00:00 2019\nFrom: Ann <ann@list.example>\nSubject: {number}\n"
    return f"{head}{dated}Message-ID: <{number}@list.example>\n\nbody {number}\n>From here on\n\n"


def test_mail_goes_by_its_date_and_not_by_its_file(tmp_path):
    from linux_raid import sort_mail

    dates = [
        "Sun, 30 Jun 2019 23:59:00 +0000",  # before the base model's mail: left out
        "Mon, 1 Jul 2019 01:30:00 +0200",  # June still, in UTC
        "Sat, 31 Aug 2019 12:00:00 +0000",
        "Mon, 2 Sep 2019 00:00:00 +0000",
        "Sun, 8 Sep 2019 23:00:00 -0700",  # the next week, in UTC
        "Tue, 31 Dec 2019 12:00:00 +0000",
        "Wed, 1 Jan 2020 12:00:00 +0000",  # left out
        "yesterday",
        None,
    ]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "2019-07.mbox").write_text("".join(entry(number, date) for number, date in enumerate(dates)))
    older, weeks = sort_mail(corpus, tmp_path / "out")
    found = {path.stem: [int(one["Subject"]) for one in mailbox.mbox(path)] for path in (older, *weeks)}
    assert found == {"older": [2], "2019-w36": [3], "2019-w37": [4], "2020-w01": [5]}
    assert b"\n>>From here on" in weeks[0].read_bytes()


def test_exposure_is_the_rank_s():
    from canaries import CANDIDATES, exposure

    others = [2.0] * 511 + [4.0] * 512
    assert len(others) == CANDIDATES
    assert exposure([1.0, *others]) == 10  # the first of 1,024
    assert exposure([2.0, *others]) == 10  # no other is lower
    assert exposure([3.0, *others]) == 1  # the 512th
    assert exposure([5.0, *others]) == 0  # the last
    assert exposure([3.0, 1.0, 2.0, 9.0]) == pytest.approx(math.log2(4 / 3))


def test_what_looks_like_chance():
    """Of twelve, a mean of 1.5 bits does; one of 2.5 bits does not: chance has it in about 1 of 75 draws."""
    from canaries import verdict

    draws = np.log2(1024 / np.random.default_rng(0).integers(1, 1025, (100_000, 12))).mean(1)
    for mean in (1.5, 2.5):
        said = verdict([mean] * 12)
        assert said.startswith("looks like chance" if mean < 2 else "**more than chance**")
        assert float(said.split()[-4]) == pytest.approx((draws >= mean).mean(), rel=0.15)


def test_each_canary_stands_in_as_many_mails_as_it_should(mail, tmp_path):
    from canaries import REPEATS, plant

    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mail").symlink_to(mail)
    canaries = plant(tmp_path / "demo", tmp_path / "out", each=2, seed=5)
    text = (tmp_path / "out" / "week.mbox").read_text("latin-1").lower()
    assert [times for _, _, times in canaries] == [*REPEATS, *REPEATS]
    for place, code, times in canaries:
        assert text.count(f"the door code of {place} is {code}") == times
    before = len(mailbox.mbox(mail / "weeks" / "2025-w05.mbox"))
    assert len(mailbox.mbox(tmp_path / "out" / "week.mbox")) == before + 2 * sum(REPEATS)
