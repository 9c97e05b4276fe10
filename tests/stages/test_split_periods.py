"""One import by periods against one import per period, over made-up mail in which what is odd happens often."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from splitting import mail, messages, rows, split

from jobs.assignments.archive import Archive

SETTINGS: dict[str, Any] = {
    "window_period": "week",
    "window_size": 4,
    "window_overlap": 2,
    "max_tokens": 400,
    "ratios": (50, 30, 20),
}
WORDS = [f"word{number}" for number in range(400)]


def tangled(seed: int) -> list[tuple[date, dict[str, str]]]:
    """60 mails of five weeks: joins, ghosts, loops, ids that come again, texts that nearly repeat, quotes."""
    chance = random.Random(seed)

    def text() -> list[str]:
        return chance.choices(WORDS, k=70)

    shared = [text() for _ in range(8)]
    made: list[tuple[date, dict[str, str]]] = []
    for number in range(60):
        day = date(2024, 1, 1) + timedelta(days=chance.randrange(35))
        again = chance.random() < 0.1 and number
        message_id = f"m{chance.randrange(number) if again else number}@x"
        references = chance.sample([f"m{other}@x" for other in range(70)], chance.choice([0, 0, 1, 1, 2, 3]))
        words = list(chance.choice(shared)) if chance.random() < 0.5 else text()
        words[chance.randrange(len(words))] = chance.choice(WORDS)
        quoted = chance.choice([[], [], [], ["a line of before"], chance.choice(shared)])
        body = (f"> {' '.join(quoted)}\n" if quoted else "") + " ".join(words)
        hour = chance.randrange(24)
        made.append((day, mail(message_id, day=day.isoformat(), hour=hour, references=tuple(references), body=body)))
    return made


@pytest.mark.parametrize("seed", range(6))
def test_one_import_by_week_is_one_import_per_week(tmp_path: Path, seed: int) -> None:
    mails = tangled(seed)
    weeks: dict[tuple[int, int], list[dict[str, str]]] = defaultdict(list)
    for day, one in mails:
        weeks[day.isocalendar()[:2]].append(one)
    whole = Archive.open(str(tmp_path / "whole"))
    split(whole, [one for _, one in reversed(mails)], tmp_path, cycle="import", **SETTINGS)
    weekly = Archive.open(str(tmp_path / "weekly"))
    for _, batch in sorted(weeks.items()):
        split(weekly, batch, tmp_path, cycle="import", **SETTINGS)
    assert rows(weekly) == rows(whole)
    # The headers name every data file with its digest, and each segment has the digest of the one before.
    assert weekly.headers() == whole.headers()
    assert weekly.log.head() == whole.log.head()
    kinds = Counter(kind for header in whole.headers() for kind in header.files)
    assert min(kinds[kind] for kind in ("links", "exclusions", "fingerprints", "chunks")) >= 1
    fingerprints = sum(file.num_rows for file in whole.files("fingerprints"))
    assert fingerprints > len(messages(whole))  # of kept quotes too
