"""Who runs stages one by one claims the archive, in a folder and in a bucket, and others are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import children
import orjson
import pytest
from local.cycles import cycle_of, workplace

from jobs.contracts.artifacts import finished_key, owner_key
from jobs.contracts.cycle import RetrainCycle
from jobs.contracts.errors import ConfigError, RefrainError, TransientError
from jobs.contracts.progression import Step
from jobs.contracts.store import Store, StoreOptions, open_store
from jobs.local.owner import claimed, owned, require_unclaimed
from jobs.local.session import Session

if TYPE_CHECKING:
    from servers.s3 import S3Server

OURS = "cluster/mail"


def claim(url: str, owner: str = OURS, cycle: str = "w1", *, take_over: bool = False) -> Store:
    return claimed(url, cycle, StoreOptions(), owner=owner, say=lambda _line: None, take_over=take_over)


def claims(url: str) -> list[dict[str, object]]:
    store = open_store(url, read_only=True)
    return [orjson.loads(store.get(key)) for key in store.list("owner/")]


def laptop(url: str, *, take_over: bool = False) -> list[dict[str, object]]:
    """Run as a laptop does; the claims while it runs."""
    with owned(url, "w9", StoreOptions(), say=lambda _line: None, take_over=take_over) as own:
        own.check()
        return claims(url)


@pytest.fixture
def url(new_store: Callable[[], str]) -> str:
    return new_store()


def test_the_first_stage_claims_and_the_others_go_on(url: str) -> None:
    for cycle in ("w1", "w1", "w2"):
        claim(url, cycle=cycle)
        (one,) = claims(url)
        assert (one["owner"], one["cycle"], one["seq"]) == (OURS, "w1", 1)
    first = open_store(url).get(owner_key(1))
    open_store(url).delete(owner_key(1))
    claim(url)
    assert open_store(url).get(owner_key(1)) == first, "nothing of a machine or a process is in it"


def test_all_others_are_refused_and_told_who_has_it(url: str) -> None:
    store = claim(url)
    refused: list[Callable[[], object]] = [
        lambda: claim(url, "cluster/other"),
        lambda: laptop(url),
        lambda: require_unclaimed(store),
    ]
    for other in refused:
        with pytest.raises(ConfigError, match="belongs to cluster/mail, which claimed it for its cycle w1") as caught:
            other()
        assert "--take-over" in caught.value.hint
    assert [one["owner"] for one in claims(url)] == [OURS]


def test_another_owner_takes_it_over(url: str) -> None:
    claim(url)
    claim(url, "cluster/other", "w5", take_over=True)
    assert [(one["owner"], one["cycle"]) for one in claims(url)] == [("cluster/other", "w5")]
    with pytest.raises(ConfigError, match="belongs to cluster/other"):
        claim(url)


def test_a_laptop_takes_it_over_for_one_run(url: str) -> None:
    claim(url)
    while_it_ran = laptop(url, take_over=True)
    assert [(one["owner"], one["cycle"]) for one in while_it_ran] == [("", "w9")]
    assert claims(url) == []
    assert laptop(url) is not None
    claim(url)
    assert [one["owner"] for one in claims(url)] == [OURS]


def test_a_stage_without_an_owner_gives_it_to_nobody(url: str) -> None:
    store = claim(url)
    require_unclaimed(store, take_over=True)
    assert claims(url) == []
    require_unclaimed(store)


def test_a_laptop_that_runs_in_a_bucket_is_not_disturbed(s3_server: S3Server) -> None:
    url = f"s3://{s3_server.make_bucket()}/archive"
    store = open_store(url)
    store.put(owner_key(3), orjson.dumps({"cycle": "w0", "host": "far", "pid": 7, "machine": "other", "seq": 3}))
    with pytest.raises(TransientError, match="run by process 7 on far"):
        claim(url)
    claim(url, take_over=True)
    assert [(one["owner"], one["seq"]) for one in claims(url)] == [(OURS, 4)]


def _claim_at_once(url: str, owner: str, start: Any, results: Any) -> None:
    start.wait(60)
    try:
        claim(url, owner)
        results.put(owner)
    except RefrainError:
        results.put("refused")


def test_of_many_at_once_one_owner_gets_it_with_all_its_stages(url: str) -> None:
    start, results = children.forked.Barrier(6), children.forked.Queue()
    claimers = [children.begun(_claim_at_once, url, f"owner-{number % 2}", start, results) for number in range(6)]
    found = sorted(results.get(timeout=60) for _ in claimers)
    for claimer in claimers:
        children.ended(claimer)
    assert found in (["owner-0"] * 3 + ["refused"] * 3, ["owner-1"] * 3 + ["refused"] * 3)
    assert len(claims(url)) == 1


def session(cycle: RetrainCycle, url: str, owner: str | None) -> Session:
    return Session(cycle, url, lambda _line: None, owner=owner)


def test_stages_of_a_cycle(url: str, tmp_path: Path) -> None:
    cycle = cycle_of(workplace(tmp_path / "place"))
    session(cycle, url, OURS).run_only(Step("parse"))
    with pytest.raises(ConfigError, match="belongs to cluster/mail"):
        session(cycle, url, "cluster/other").run_only(Step("split"))
    with pytest.raises(ConfigError, match="belongs to cluster/mail"):
        session(cycle, url, None).run_only(Step("split"))
    with pytest.raises(ConfigError, match="belongs to cluster/mail"):
        session(cycle, url, None).run()
    split = session(cycle, url, OURS)
    split.run_only(Step("split"))
    assert split.result is not None
    assert split.result["log"]["seq"] == 0
    other = session(cycle, url, "cluster/other")
    other.run_only(Step("window"), take_over=True)
    assert [one["owner"] for one in claims(url)] == ["cluster/other"]


def test_a_cycle_of_theirs_that_has_ended_is_not_passed_off_as_ours(tmp_path: Path, url: str) -> None:
    claim(url)
    open_store(url).put(finished_key("w1"), b'{"state": "Skipped", "stages": [], "message": ""}')
    cycle = cycle_of(workplace(tmp_path), store={"url": url})
    with pytest.raises(ConfigError, match="belongs to cluster/mail"):
        Session(cycle, url, lambda _line: None, owner="cluster/other").run_only(Step("parse"))
    Session(cycle, url, lambda _line: None, owner=OURS).run_only(Step("parse"))
    Session(cycle, url, lambda _line: None, owner="cluster/other").run_only(Step("parse"), take_over=True)
