"""The train stage killed or told to stop, over every store: run again, it writes what an undisturbed one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from components import require
from trainable import command, copied, die_at_step, in_a_child, middle, train, written

from jobs.contracts.errors import StoppedError

pytest.importorskip("torch")


def die_at_upload(number: int) -> None:
    """From now on this process dies behind the so manieth object that it writes."""
    from jobs.items import StoreItems

    original, count = StoreItems.publish, [0]

    def publish(self: Any, name: str) -> None:
        store = self._store
        upload = store.upload

        def counted(key: str, path: Path) -> None:
            upload(key, path)
            count[0] += 1
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

        store.upload = counted
        original(self, name)

    StoreItems.publish = publish  # type: ignore[method-assign]


class TestKills:
    @pytest.mark.parametrize("number", [1, 6, 13])
    def test_between_two_uploads(self, ready: Path, url: str, undisturbed: Any, number: int) -> None:
        """A checkpoint is six objects, the marker the last of them."""

        def work() -> None:
            die_at_upload(number)
            train(ready, url)

        assert in_a_child(work) == -signal.SIGKILL
        train(ready, url)
        assert written(url) == written(undisturbed[0])

    def test_over_every_store(self, ready: Path, new_store: Any, undisturbed: Any) -> None:
        url = copied(ready, new_store())

        def work() -> None:
            die_at_step(middle(undisturbed[0]), signal.SIGKILL)
            train(ready, url)

        assert in_a_child(work) == -signal.SIGKILL
        assert not any(key.endswith("/train/_SUCCESS.json") for key in written(url))
        train(ready, url)
        assert written(url) == written(undisturbed[0])

    @pytest.mark.parametrize(
        ("number", "code"),
        [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)],
        ids=["TERM", "INT", "HUP"],
    )
    def test_told_to_stop_it_saves_in_the_middle_of_a_step(
        self, ready: Path, url: str, undisturbed: Any, capfd: Any, number: signal.Signals, code: int
    ) -> None:
        """By the command line, whose own handler would have ended it at once."""

        step = middle(undisturbed[0])

        def work() -> None:
            die_at_step(step, number)
            command(ready, url)

        assert in_a_child(work) == code
        told = capfd.readouterr().err
        assert f"told to stop at step {step} of" in told
        assert "the same command again goes on from there" in told
        assert ("Ctrl-C again stops at once" in told) == (number == signal.SIGINT)
        assert any(f"checkpoints/step_{step}/_COMPLETE.json" in key for key in written(url))
        assert in_a_child(lambda: command(ready, url)) == 0
        assert f"goes on from step {step}" in capfd.readouterr().err
        assert written(url) == written(undisturbed[0])

    def test_sigterm_as_the_first_process_of_a_container(
        self, ready: Path, url: str, undisturbed: Any, tmp_path: Path
    ) -> None:
        """The kernel spares it signals that it has no handler for."""
        isolated = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
        possible = subprocess.run([*isolated, "true"], capture_output=True, check=False)
        require(possible.returncode == 0, "no namespaces: unshare --pid is not allowed here")
        step = middle(undisturbed[0])
        script = tmp_path / "first.py"
        script.write_text(
            f"import os, sys\nfrom pathlib import Path\nsys.path[:0] = {[str(Path(__file__).parents[1])]!r}\n"
            f"from trainable import command, die_at_step\nassert os.getpid() == 1\n"
            f"die_at_step({step}, 15)\ncommand(Path({str(ready)!r}), {url!r})\n"
        )
        done = subprocess.run([*isolated, sys.executable, script], capture_output=True, check=False, text=True)
        assert done.returncode == 143, done.stderr
        assert f"told to stop at step {step} of" in done.stderr
        train(ready, url)
        assert written(url) == written(undisturbed[0])


def test_told_to_stop_while_it_loads_it_stops_at_once(ready: Path, url: str) -> None:
    """Nothing is trained yet, so nothing is saved."""
    from jobs.ml.training import run

    original = run._prepare

    def prepare(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_prepare", prepare)
        with pytest.raises(StoppedError, match="told to stop at step 0"):
            train(ready, url)
    assert not any("checkpoints" in key for key in written(url))
