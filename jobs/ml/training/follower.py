"""A process that trains along with the first one: `python -m jobs.ml.training.follower DEVICE`.

Its standard input is a pipe from the one that started it: where that closes, this process ends too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from jobs.contracts.errors import RefrainError
from jobs.files import scratch_folder


def main() -> int:
    """Take part until training ends; the exit code."""
    from jobs.ml.training.run import follow

    threading.Thread(target=_end_with_parent, daemon=True).start()
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the first process decides
    try:
        with scratch_folder("refrain-follower-") as scratch:
            follow(sys.argv[1], scratch, lambda: bool(told))
    except RefrainError as error:
        sys.stderr.write(f"refrain: process {os.environ.get('RANK')}: {error}\n")
        return error.exit_code
    return 0


def _end_with_parent() -> None:
    while sys.stdin.buffer.read(1 << 16):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
