"""Production records: one winner, nothing deleted, nothing promoted that is not what was trained."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selection.builders import put_adapter

from jobs.contracts.errors import ConfigError, IntegrityError, MissingInputError, OutputError
from jobs.contracts.store import Store, open_store
from jobs.production import (
    Production,
    append,
    bring_adapter,
    history_table,
    incumbent_of,
    move_link,
    promote,
    records,
    require_adapter,
    roll_back,
    rollback_target,
)

if TYPE_CHECKING:
    from servers.stores import NewStore


def promotion(cycle: str, window_idx: int = 1) -> Production:
    return Production(
        0, "promote", cycle, f"cycles/{cycle}/train/checkpoints/step_4", cycle * 8, window_idx, {"delta": 0.1}
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "archive").as_uri())


def filled(store: Store) -> list[Production]:
    """Three promotions, a, b and c."""
    incumbent = ""
    for number, cycle in enumerate(("a", "b", "c"), 1):
        incumbent = promote(store, promotion(cycle, number), incumbent).sha256
    return list(records(store))


def test_records_follow_each_other(store: Store) -> None:
    assert [(one.seq, one.cycle) for one in filled(store)] == [(1, "a"), (2, "b"), (3, "c")]
    assert [(one and one.cycle) for one in (incumbent_of(store, name) for name in "abcd")] == [None, "a", "b", "c"]


def test_promoting_a_cycle_again_adds_nothing(store: Store) -> None:
    before = filled(store)
    assert promote(store, promotion("b", 2), "aaaaaaaa") == before[1]
    assert list(records(store)) == before
    with pytest.raises(ConfigError, match="cycle b has put adapter"):
        promote(store, replace(promotion("b"), sha256="other"), "aaaaaaaa")


def test_something_else_has_come_into_service(store: Store) -> None:
    filled(store)
    with pytest.raises(ConfigError, match="is in service, but the decision compared with the bare base model"):
        promote(store, promotion("d"), "")


def test_of_racing_promotions_one_wins(new_store: NewStore) -> None:
    url = new_store()
    store = open_store(url)
    names = [f"cycle{number}" for number in range(8)]

    def attempt(name: str) -> str:
        try:
            return promote(open_store(url), promotion(name), "").cycle
        except ConfigError:
            return ""

    with ThreadPoolExecutor(8) as pool:
        won = [one for one in pool.map(attempt, names) if one]
    assert len(won) == 1
    assert [(one.seq, one.cycle) for one in records(store)] == [(1, won[0])]


def test_racers_of_one_cycle_agree(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: promote(open_store(store.url), promotion("a"), ""), range(8)))
    assert all(one == got[0] for one in got)
    assert len(list(records(store))) == 1


def test_a_promoter_that_loses_looks_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look and its write another process takes the number."""
    real = store.put_if_absent
    rival = open_store(store.url)

    def late(key: str, data: bytes) -> bool:
        monkeypatch.setattr(store, "put_if_absent", real)
        promote(rival, promotion("b"), "")
        return real(key, data)

    monkeypatch.setattr(store, "put_if_absent", late)
    with pytest.raises(ConfigError, match="is in service"):
        promote(store, promotion("a"), "")
    assert [one.cycle for one in records(store)] == ["b"]


def test_rollbacks_go_back_step_by_step_and_delete_nothing(store: Store) -> None:
    filled(store)
    served = []
    for _ in range(3):
        record, is_new = roll_back(store, rollback_target(list(records(store))))
        assert is_new
        served.append((record.seq, record.action, record.cycle, record.adapter))
    assert served == [
        (4, "rollback", "b", "cycles/b/train/checkpoints/step_4"),
        (5, "rollback", "a", "cycles/a/train/checkpoints/step_4"),
        (6, "rollback", "", None),
    ]
    with pytest.raises(MissingInputError, match="nothing to roll back"):
        rollback_target(list(records(store)))
    assert [one.seq for one in records(store)] == [1, 2, 3, 4, 5, 6]
    assert incumbent_of(store, "d") == list(records(store))[-1]


def test_a_rollback_to_a_record(store: Store) -> None:
    known = filled(store)
    record, _ = roll_back(store, rollback_target(known, 1))
    assert (record.cycle, record.window_idx, record.decision["to"]) == ("a", 1, 1)
    assert roll_back(store, rollback_target(list(records(store)), 1)) == (record, False)
    for seq in (-1, 9):
        with pytest.raises(MissingInputError, match=f"no production record {seq}"):
            rollback_target(list(records(store)), seq)


def test_nothing_in_service(store: Store) -> None:
    with pytest.raises(MissingInputError, match="nothing to roll back"):
        rollback_target([])


def test_a_missing_or_damaged_record(store: Store) -> None:
    filled(store)
    store.put("production/00000000000000000002.json", b"{")
    with pytest.raises(IntegrityError, match="do not follow each other"):
        list(records(store))
    store.delete("production/00000000000000000002.json")
    with pytest.raises(IntegrityError, match="do not follow each other"):
        list(records(store))


def test_an_adapter_is_what_training_wrote(store: Store, tmp_path: Path) -> None:
    winner = put_adapter(store, "a", "step_4", tmp_path)
    folder = require_adapter(store, winner["key"], tmp_path / "got")
    adapter = ["adapter_config.json", "adapter_model.safetensors", "refrain.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["_COMPLETE.json", *adapter]
    store.put(f"{winner['key']}/adapter_model.safetensors", b"other")
    with pytest.raises(IntegrityError, match="digest differs"):
        require_adapter(store, winner["key"], tmp_path / "damaged")
    store.delete(f"{winner['key']}/adapter_model.safetensors")
    with pytest.raises(MissingInputError, match="the adapter is not there, or not whole"):
        require_adapter(store, winner["key"], tmp_path / "gone")


def test_an_adapter_that_was_exchanged_whole(store: Store, tmp_path: Path) -> None:
    winner = put_adapter(store, "a", "step_4", tmp_path)
    marker = store.get("cycles/a/train/_SUCCESS.json")
    put_adapter(store, "a", "step_4", tmp_path / "else", "other weights")
    store.put("cycles/a/train/_SUCCESS.json", marker)
    with pytest.raises(IntegrityError, match="not the one that training wrote"):
        require_adapter(store, winner["key"], tmp_path / "got")


def test_what_is_in_service_is_brought(store: Store, tmp_path: Path) -> None:
    winner = put_adapter(store, "a", "step_4", tmp_path)
    record = Production(1, "promote", "a", winner["key"], winner["sha256"], 1)
    append(store, record)
    folder = bring_adapter(store, record, tmp_path / "got")
    assert folder is not None
    assert b"weights" in (folder / "adapter_model.safetensors").read_bytes()


def test_history_as_a_table(store: Store) -> None:
    filled(store)
    roll_back(store, rollback_target(list(records(store)), 0))
    store.put(
        "history/000002-kept.json", b'{"cycle":"kept","outcome":"NotPromoted","reason":"NotBetter","window_idx":2}'
    )
    lines = [line.split() for line in history_table(store)]
    assert [line[:3] for line in lines] == [
        ["seq", "action", "cycle"],
        ["1", "promote", "a"],
        ["2", "promote", "b"],
        ["kept", "out", "kept"],
        ["3", "promote", "c"],
        ["4", "rollback", "-"],
    ]
    assert lines[1][4] == "+10.00%"
    assert lines[3][-1] == "NotBetter"


def test_a_link_is_moved_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "production"
    move_link(link, tmp_path / "one")
    assert (link.resolve(), str(link.readlink())) == (tmp_path / "one", "one")
    move_link(link, tmp_path / "two")
    assert link.resolve() == tmp_path / "two"
    move_link(link, None)
    assert not os.path.lexists(link)
    link.mkdir()
    with pytest.raises(OutputError, match="something that is no link"):
        move_link(link, tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "production", "two"]


def test_a_link_is_never_missing_meanwhile(tmp_path: Path) -> None:
    """A reader that opens it again and again while it moves."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    link = tmp_path / "production"
    move_link(link, tmp_path / "one")
    code = (
        "import sys\nfrom pathlib import Path\nfrom jobs.production import move_link\n"
        "root = Path(sys.argv[1])\n"
        "for n in range(400): move_link(root / 'production', root / ('one', 'two')[n % 2])\n"
    )
    mover = subprocess.Popen([sys.executable, "-c", code, tmp_path])
    seen = set()
    while mover.poll() is None:
        seen.add((link / "file").read_text())
    assert mover.returncode == 0
    assert seen == {"one", "two"}
