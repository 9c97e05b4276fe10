"""An archive into texts, threads, weekly windows, chunks and the log; beside a script with the standard library."""

from __future__ import annotations

import email
import email.policy
import hashlib
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

RATIOS = ((0.8, "train"), (0.9, "val"), (1.0, "test"))


def _as_people_write_it() -> None:
    """Texts by `email`, threads by union-find in a dict, a split by the hash of the thread, windows of 100 mails."""
    records, parent = [], {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    with Path("messages.jsonl").open() as lines:
        for line in lines:
            record = json.loads(line)
            raw = record["email_message"].encode(record["encoding"])
            mail = email.message_from_bytes(raw, policy=email.policy.default)
            body = mail.get_body(("plain", "html"))
            text = "" if body is None else body.get_content()
            kept = [one for one in text.splitlines() if not one.startswith(">")]
            references = mail.get("References", "").replace("<", " ").replace(">", " ").split()
            for name in references:
                parent[find(record["message_id"])] = find(name)
            headers = {name: str(mail[name]) for name in ("From", "Subject", "Date")}
            records.append(headers | {"message_id": record["message_id"], "text": "\n".join(kept)})
    threads = defaultdict(list)
    for record in records:
        threads[find(record["message_id"])].append(record)
    outputs = {name: Path(f"{name}.jsonl").open("w") for _, name in RATIOS}  # noqa: SIM115 - closed at the end
    for root, members in threads.items():
        place = int.from_bytes(hashlib.sha256(f"42{root}".encode()).digest()[:8], "big") / 2**64
        split = next(name for upto, name in RATIOS if place < upto)
        for start in range(0, len(members), 90):
            text = "\n\n".join(
                f"From: {one['From']}\n\n{one['text']}" for one in members[max(0, start - 10) : start + 90]
            )
            chunk = {"thread_id": root, "num_tokens": len(text.split()), "text": text}
            outputs[split].write(json.dumps(chunk) + "\n")
        for member in members:
            outputs[split].write(json.dumps(member) + "\n")
    for output in outputs.values():
        output.close()


if __name__ == "__main__":
    _as_people_write_it()
    sys.exit()

import mailgen  # noqa: E402

from rows import AtLeast, Contestant, Row  # noqa: E402

REFRAIN = str(Path(sys.executable).with_name("refrain"))
WEEKS = 26


def prepare(folder: Path, num_mails: int) -> None:
    """Half a year of mail, parsed."""
    mailgen.write_mbox(folder / "archive.mbox", num_mails, days=7 * WEEKS)
    subprocess.run(
        [REFRAIN, "parse", "archive.mbox", "-o", "messages.jsonl"], cwd=folder, check=True, capture_output=True
    )


def _refrain(workers: int, folder: Path) -> list[str]:
    del folder
    settings = ["--window-size", "100", "--window-overlap", "10", "--window-period", "week"]
    files = ["-i", "messages.jsonl", "-m", "out/assignments.json", "-o", "out/splits"]
    return [REFRAIN, "split", *files, *settings, "--workers", str(workers)]


def _forget(folder: Path) -> None:
    shutil.rmtree(folder / "out", ignore_errors=True)


def _stdlib(folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__]


ROW = Row(
    title="Threads, windows and split of an archive",
    unit="mails",
    size=10_000,
    prepare=prepare,
    contestants=(
        Contestant("`refrain split`, one CPU", partial(_refrain, 1), _forget),
        Contestant("`refrain split`, all CPUs", partial(_refrain, 2), _forget, num_cpus=None),
        Contestant("a script with `email` (policy.default)", _stdlib, share=0.2),
    ),
    goals=(AtLeast(1, "a script with `email` (policy.default)", times=10),),
    turns=3,
    note=(
        f"{WEEKS} weekly windows; plain files in and out. The script takes the text, drops lines that begin with `>`, "
        "joins threads by References, and writes texts by split. `refrain split` also decodes what is odd, strips "
        "signatures and list footers, looks for near-duplicates, commits each window to the log and syncs it to the "
        "disk, and exports all of it."
    ),
)
