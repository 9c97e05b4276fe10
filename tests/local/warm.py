"""A process that has imported everything heavy, and forks a child for each cycle that it is told to run.

`Warm` is its client. It is started anew and runs nothing itself, so that no thread stands when it forks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

HEAVY = (
    *("torch", "transformers", "peft", "accelerate", "sentence_transformers", "faiss", "bm25s", "sacrebleu"),
    *("rouge_score.rouge_scorer", "safetensors.torch", "lxml.etree", "pyarrow.parquet", "tokenizers"),
    *(f"jobs.stages.{name}" for name in ("parse", "split", "window", "rehearse", "sample", "train", "index")),
    *(f"jobs.stages.{name}" for name in ("evaluate", "select", "promote")),
    *("jobs.ml.training.run", "jobs.ml.evaluating", "jobs.ml.embedding", "transformers.models.llama.modeling_llama"),
)
TESTS = Path(__file__).parents[1]


class Warm:
    """Runs cycles in processes of their own, with nothing to import."""

    def __init__(self, log: Path) -> None:
        environment = os.environ | {
            "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(log.parent),  # what is killed leaves its scratch behind
        }
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def run(self, cycle: dict[str, Any], folder: Path, url: str, passed: list[str] | None = None) -> tuple[int, str]:
        """Run a cycle's document, its paths meant from `folder`; the exit code, and the write that was deadly.

        With `passed` the process dies behind the first write that is not among them.
        """
        request = {"cycle": cycle, "folder": str(folder), "url": url, "passed": passed}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self.said()
        code, died_behind = json.loads(answer)
        return code, died_behind

    def said(self) -> str:
        """The end of what was told on standard error."""
        return self._log.read_text()[-4000:]

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def serve() -> None:
    for name in HEAVY:
        import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints gets between the answers
    for line in sys.stdin:
        answers.write(json.dumps(_fork(json.loads(line))) + "\n")
        answers.flush()


def _fork(request: dict[str, Any]) -> tuple[int, str]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(request, writing)
    os.close(writing)
    with os.fdopen(reading) as said:
        died_behind = said.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), died_behind


def _child(request: dict[str, Any], writing: int) -> None:
    """Run the cycle, and end without going back to the server's loop."""
    import traceback

    try:
        _run(request, writing)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - nothing may get back into the server's loop
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _run(request: dict[str, Any], writing: int) -> None:
    import hashlib

    import torch
    from local.killing import die_at_writes

    from jobs.contracts.cycle import RetrainCycle
    from jobs.local.configs import Machine
    from jobs.local.places import located
    from jobs.local.session import Session

    torch.set_num_threads(1)
    passed = request["passed"]

    def deadly(_number: int, method: str, key: str, data: Any) -> bool:
        content = data.read_bytes() if isinstance(data, Path) else data or b""
        write = f"{method} {key} {hashlib.sha256(content).hexdigest()[:12]}"
        if passed is None or write in passed:
            return False
        os.write(writing, write.encode())
        return True

    die_at_writes(deadly)
    cycle = located(RetrainCycle.model_validate(request["cycle"]), Path(request["folder"]))
    Session(cycle, request["url"], lambda _line: None, Machine(workers=1, device="cpu")).run()


if __name__ == "__main__":
    serve()
