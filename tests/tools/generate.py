"""The generated parts of the repository, made from the code that they describe.

    python tests/tools/generate.py            write them
    python tests/tools/generate.py --check    exit 1 where one is stale

Tables of README.md and docs/operate.md stand between `<!-- name -->` and `<!-- /name -->`; the
CustomResourceDefinition is a file of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from controller.cli import advice
from controller.crd import CRD_FILE, crd_yaml
from jobs.cli import COMMANDS
from jobs.contracts.artifacts import ARTIFACTS
from jobs.contracts.errors import RefrainError
from jobs.contracts.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]


def stage_table() -> str:
    """The ten stages: what each does, reads and writes."""
    rows = ["| stage | does | reads | writes |", "|---|---|---|---|"]
    for stage in STAGES:
        kinds = [*stage.reads, *(["incumbent"] if stage.reads_incumbent else [])]
        reads = ", ".join(kind.replace("_", " ") for kind in kinds) or "mail"
        writes = ", ".join(f"`{ARTIFACTS[kind].filename}`" for kind in stage.writes)
        rows.append(f"| `{stage.name}` | {stage.summary} | {reads} | {writes} |")
    return "\n".join(rows)


def command_table() -> str:
    """Every command of the package jobs."""
    rows = ["| command | |", "|---|---|"]
    return "\n".join([*rows, *(f"| `refrain {name}` | {summary} |" for name, summary in COMMANDS.items())])


def exit_code_table() -> str:
    """Exit codes and what they mean, by number."""
    rows = {0: "done", 1: "a defect: please report it"}
    pending = [RefrainError]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if "exit_code" in vars(cls) and cls is not RefrainError:
            rows[cls.exit_code] = f"{str(cls.__doc__).splitlines()[0].rstrip('.')} (`{cls.__name__}`)"
    lines = [f"| {code} | {meaning} |" for code, meaning in sorted(rows.items())]
    return "\n".join(["| code | meaning |", "|---|---|", *lines])


def reason_tables() -> str:
    """Every reason of a condition, what it means and what to do."""
    return "\n".join(advice.page()).rstrip()


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"stages": stage_table, "commands": command_table, "exit-codes": exit_code_table},
    "docs/operate.md": {"reasons": reason_tables},
}
"""Pages, and what stands in each."""


def with_tables(page: str, text: str) -> str:
    """A page's text with every marked table made anew."""
    for name, table in PAGES[page].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{page}: no place marked for the table {name!r}")
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table()}\n{match[2]}", text)
    return text


def generated() -> dict[Path, str]:
    """Every generated file with its contents as they should be."""
    pages = {ROOT / page: with_tables(page, (ROOT / page).read_text()) for page in PAGES}
    return pages | {ROOT / CRD_FILE: crd_yaml()}


def main(arguments: list[str]) -> int:
    """Write what differs, or with --check only name it; the exit code."""
    stale = [(path, text) for path, text in generated().items() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is stale: run `make generate`", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
