"""The synthetic archive that other tests and the benchmarks are made on."""

from __future__ import annotations

import email
import hashlib
import mailbox
from itertools import pairwise

import mailgen


def test_the_same_seed_gives_the_same_bytes_on_every_machine(tmp_path):
    mailgen.write_mbox(tmp_path / "a.mbox", 500, seed=7)
    digest = hashlib.sha256((tmp_path / "a.mbox").read_bytes()).hexdigest()
    assert digest == "048210c82c30f443a983bceed07aa968b6cc5ed68a4672e86fc6ec3828878c8d"
    mailgen.write_mbox(tmp_path / "b.mbox", 500, seed=8)
    assert (tmp_path / "b.mbox").read_bytes() != (tmp_path / "a.mbox").read_bytes()


def test_mails_are_sound_and_in_the_order_of_their_dates():
    mails = list(mailgen.mails(1000, seed=1))
    parsed = [email.message_from_bytes(mail.raw) for mail in mails]
    assert [message.defects for message in parsed] == [[]] * 1000
    assert [str(message["Message-ID"]) for message in parsed] == [f"<{mail.message_id}>" for mail in mails]
    assert len({mail.message_id for mail in mails}) == 1000
    assert all(a.epoch_seconds <= b.epoch_seconds for a, b in pairwise(mails))
    assert 180 < (mails[-1].epoch_seconds - mails[0].epoch_seconds) / 86_400 <= 182


def test_replies_quote_and_refer_to_a_mail_before_them():
    seen = set()
    answered = 0
    for mail in mailgen.mails(1000, seed=1):
        message = email.message_from_bytes(mail.raw)
        if parent := message["In-Reply-To"]:
            assert str(message["References"]).split()[-1] == parent
            answered += str(parent) in seen
        seen.add(f"<{mail.message_id}>")
    assert 600 < answered < 750


def test_an_mbox_read_by_others_has_every_mail_whole(tmp_path):
    mailgen.write_mbox(tmp_path / "a.mbox", 1000, seed=1)
    stored = [bytes(message).replace(b"\n>From ", b"\nFrom ") for message in mailbox.mbox(tmp_path / "a.mbox")]
    assert stored == [mail.raw for mail in mailgen.mails(1000, seed=1)]
    assert b"\n>From " in (tmp_path / "a.mbox").read_bytes()


def test_weeks_together_are_the_whole(tmp_path):
    mailgen.write_mbox(tmp_path / "a.mbox", 600, seed=2, days=60)
    weeks = mailgen.write_mboxes_by_week(tmp_path / "weeks", 600, seed=2, days=60)
    assert [path.name for path in weeks] == [f"week-{number:03d}.mbox" for number in range(9)]
    assert b"".join(path.read_bytes() for path in weeks) == (tmp_path / "a.mbox").read_bytes()
