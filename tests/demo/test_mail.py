"""The generator: seeded, read by parse as it is meant, and with all that a real archive has."""

from __future__ import annotations

import json
import mailbox
import os
import subprocess
import sys
from email.message import Message
from pathlib import Path

import pytest

from mail import ODD, QUIET_THREADS, archive
from people import people
from projects import FACTS_A_PROJECT, KINDS, STOCK_SENTENCES, workstreams

DEMO = Path(__file__).parents[2] / "examples" / "demo"


def records(refrain, folder: Path, mbox: Path) -> list[dict]:
    out = folder / f"{mbox.stem}.jsonl"
    run = refrain("parse", mbox, "-o", out)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]


def mails(mbox: Path) -> list[Message]:
    return list(mailbox.mbox(mbox))


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed(tmp_path, mail):
    for number in ("0", "1"):
        command = [sys.executable, DEMO / "mail.py", tmp_path / number, "--seed", "3", "--older-weeks", "3"]
        environment = {**os.environ, "PYTHONHASHSEED": number}
        subprocess.run([*command, "--threads", "20"], check=True, env=environment, capture_output=True)
    files = sorted(path.relative_to(mail) for path in mail.rglob("*") if path.is_file())
    assert len(files) == 7
    for file in files:
        assert (
            (tmp_path / "0" / file).read_bytes() == (tmp_path / "1" / file).read_bytes() == (mail / file).read_bytes()
        )


def test_another_seed_gives_other_people_other_projects_and_other_mail():
    assert [person.first for person in people(1)] != [person.first for person in people(2)]
    one, other = (workstreams(seed, 2, people(0)) for seed in (1, 2))
    assert {project.name for project in one[0].projects} != {project.name for project in other[0].projects}
    assert archive(1, older=1, cycles=1, threads=4) != archive(2, older=1, cycles=1, threads=4)


def test_each_week_opens_projects_of_its_own_with_facts_and_things_said_of_them():
    streams = workstreams(5, 15, people(5))
    names = [project.name for stream in streams for project in stream.projects]
    assert len(names) == len(set(names)) == 45
    assert all(len(project.facts) == FACTS_A_PROJECT for stream in streams for project in stream.projects)
    said = [sentence for stream in streams for sentence in stream.sentences]
    assert all(len(set(stream.sentences)) == STOCK_SENTENCES for stream in streams)
    assert len(set(said)) > 0.95 * len(said)  # hardly a sentence is said in two weeks
    with pytest.raises(ValueError, match="names for"):
        workstreams(5, 100, people(5))


def test_parse_keeps_every_mail(mail, refrain, tmp_path):
    for mbox in sorted((mail / "weeks").glob("*.mbox")):
        assert len(records(refrain, tmp_path, mbox)) == len(mails(mbox))
        assert (tmp_path / f"{mbox.stem}.rejects.jsonl").read_text() == ""


def test_weeks_follow_each_other_and_the_quiet_one_has_no_work_in_it(mail):
    weeks = sorted((mail / "weeks").glob("*.mbox"))
    assert [path.stem for path in sorted((mail / "older").glob("*.mbox"))] == ["2025-w02", "2025-w03", "2025-w04"]
    assert [path.stem for path in weeks] == ["2025-w05", "2025-w06", "2025-w07"]
    facts = json.loads((mail / "facts.json").read_text())
    names = set(facts["2025-w07"])
    spoken_of = [
        {name for name in names for one in mails(week) if name.lower() in str(one["Subject"]).lower()} for week in weeks
    ]
    assert len(spoken_of[0]) >= 3
    assert spoken_of[1] == set()
    assert len(mails(weeks[1])) < 3 * QUIET_THREADS
    assert facts["2025-w06"] == facts["2025-w05"]


def test_facts_change_from_week_to_week_and_are_said_as_they_are_then(mail):
    facts = json.loads((mail / "facts.json").read_text())
    before, after = facts["2025-w05"], facts["2025-w07"]
    changed = {
        (name, kind) for name, own in before.items() for kind, value in own.items() if after[name][kind] != value
    }
    assert len(changed) == 2
    assert {kind for own in after.values() for kind in own} == set(KINDS)
    text = (mail / "weeks" / "2025-w07.mbox").read_text("utf-8", "replace").lower()
    newest = list(after.items())[-3:]
    said = [value.lower() in text for _, own in newest for value in own.values()]
    assert sum(said) >= 0.9 * len(said)


def test_replies_refer_to_mails_that_are_there_and_quote_them(mail):
    found = mails(mail / "weeks" / "2025-w05.mbox")
    ids = {one["Message-ID"] for one in found if one["Message-ID"]}
    replies = [one for one in found if one["In-Reply-To"] and "odd" not in one["In-Reply-To"]]
    assert len(replies) >= 15
    assert all(one["In-Reply-To"] in ids for one in replies)
    assert all(one["References"].split()[-1] == one["In-Reply-To"] for one in replies)
    assert sum("\n> " in one.as_string() for one in replies) >= len(replies) / 3


def test_every_week_for_a_cycle_has_each_kind_of_odd_mail(mail):
    for mbox in (mail / "weeks").glob("*.mbox"):
        found = mails(mbox)
        raw = [one.as_bytes() for one in found]
        ids = {one["Message-ID"] for one in found}
        assert len(ODD) == 5
        assert len(raw) - len(set(raw)) == 1
        assert sum(one["Message-ID"] is None for one in found) == 1
        assert sum(one.get_content_charset() == "x-harbour" for one in found) == 1
        assert sum(one.get_content_type() == "text/html" for one in found) == 1
        assert sum(one["Auto-Submitted"] is not None for one in found) == 1
        assert sum(one["In-Reply-To"] is not None and one["In-Reply-To"] not in ids for one in found) == 1


def test_split_reads_the_odd_mails_as_they_were_meant(mail, refrain, tmp_path):
    mbox = mail / "weeks" / "2025-w05.mbox"
    records(refrain, tmp_path, mbox)
    run = refrain("split", "-i", tmp_path / "2025-w05.jsonl", "-m", tmp_path / "a.json", "--ratios", "1:0:0")
    assert run.returncode == 0, run.stderr
    texts = {one["subject"]: one["text"] for one in json.loads((tmp_path / "splits" / "train.json").read_text())}
    assert texts["café"].startswith("The café at the pier is déjà vu.")
    assert texts["menu of the week"].startswith("Fish on Friday.")
    assert len(json.loads((tmp_path / "splits" / "train.json").read_text())) == len(mails(mbox)) - 1  # a duplicate


def test_people_keep_their_habits(mail):
    found = mails(mail / "older" / "2025-w02.mbox")
    by_person = {person.address: person for person in people(3)}
    assert len(by_person) == 10
    lower = next(person for person in by_person.values() if person.voice.is_lower)
    own = [one for one in found if lower.address in one["From"]]
    bodies = [
        part for one in own for part in str(one.get_payload()).split("\n\n") if ">" not in part and "wrote:" not in part
    ]
    assert bodies
    assert all(body == body.lower() for body in bodies)
