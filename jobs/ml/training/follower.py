"""A process that trains along with the first one: `python -m jobs.ml.training.follower DEVICE`.

Its standard input is a pipe from the one that started it: where that closes, this process ends too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from jobs.contracts.errors import RefrainError, StoppedError
from jobs.files import scratch_folder


def take_part(device: str | None) -> None:
    """Train along until training ends; raises what this process met with, and StoppedError where any was told to stop.

    A terminal tells all processes, by SIGINT and by SIGHUP; what is ignored, as below nohup, stays so.
    """
    from jobs.ml.training.run import follow

    told: list[int] = []
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, lambda number, _frame: told.append(number))
    with scratch_folder("refrain-follower-") as scratch:
        follow(device, scratch, lambda: bool(told))


def main() -> int:
    """Take part in the training of the process that started this one; the exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the first process decides
    try:
        take_part(sys.argv[1])
    except StoppedError as error:  # the first process tells of it
        return error.exit_code
    except RefrainError as error:
        sys.stderr.write(f"refrain: process {os.environ.get('RANK')}: {error}\n")
        return error.exit_code
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1 << 16):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
