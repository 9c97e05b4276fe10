"""Who may import whom: read from the sources, so that an import inside a function counts too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "controller": {"controller", "jobs.contracts"},
    "jobs.contracts": {"jobs.contracts"},
    "jobs.files": {"jobs.contracts"},
    "jobs.processes": {"jobs.contracts"},
    "jobs.progress": set(),
    "jobs.mail": {"jobs.mail", "jobs.contracts"},
    "jobs.sources": {"jobs.sources", "jobs.mail", "jobs.contracts", "jobs.files", "jobs.processes"},
    "jobs.intake": {
        "jobs.intake",
        "jobs.mail",
        "jobs.ml",
        "jobs.assignments",
        "jobs.contracts",
        "jobs.files",
        "jobs.processes",
        "jobs.progress",
    },
    "jobs.assignments": {"jobs.assignments", "jobs.contracts", "jobs.files", "jobs.progress"},
    "jobs.replay": {"jobs.replay", "jobs.assignments", "jobs.contracts", "jobs.files"},
    "jobs.items": {"jobs.contracts", "jobs.files"},
    "jobs.production": {"jobs.contracts", "jobs.files", "jobs.items"},
    "jobs.corpus": {"jobs.corpus", "jobs.intake", "jobs.assignments", "jobs.contracts", "jobs.files"},
    "jobs.retrieval": {"jobs.retrieval", "jobs.mail", "jobs.contracts", "jobs.files", "jobs.progress"},
    "jobs.scoring": {"jobs.scoring", "jobs.retrieval", "jobs.mail", "jobs.contracts", "jobs.files"},
    "jobs.evaluation": {
        *("jobs.evaluation", "jobs.scoring", "jobs.retrieval", "jobs.ml", "jobs.mail"),
        *("jobs.contracts", "jobs.files", "jobs.progress"),
    },
    "jobs.selection": {"jobs.selection", "jobs.scoring", "jobs.contracts", "jobs.files"},
    "jobs.ml": {
        *("jobs.ml", "jobs.mail", "jobs.retrieval", "jobs.items"),
        *("jobs.contracts", "jobs.files", "jobs.progress"),
    },
    "jobs.serving": {
        *("jobs.serving", "jobs.ml", "jobs.mail", "jobs.retrieval", "jobs.items", "jobs.production"),
        *("jobs.contracts", "jobs.files"),
    },
    "jobs.stages": {
        "jobs.stages.__init__",
        *("jobs.mail", "jobs.sources", "jobs.intake", "jobs.assignments", "jobs.replay", "jobs.ml"),
        *("jobs.corpus", "jobs.retrieval", "jobs.scoring", "jobs.evaluation", "jobs.selection"),
        *("jobs.items", "jobs.production", "jobs.processes"),
        *("jobs.contracts", "jobs.files", "jobs.progress"),
    },
    "jobs.runner": {
        *("jobs.stages", "jobs.assignments", "jobs.items", "jobs.production"),
        *("jobs.contracts", "jobs.files", "jobs.progress"),
    },
    "jobs.shares": {
        *("jobs.runner", "jobs.stages", "jobs.assignments"),
        *("jobs.contracts", "jobs.files"),
    },
    "jobs.local": {
        *(
            "jobs.local",
            "jobs.runner",
            "jobs.shares",
            "jobs.stages",
            "jobs.assignments",
            "jobs.items",
            "jobs.production",
            "jobs.ml",
        ),
        *("jobs.corpus", "jobs.selection", "jobs.contracts", "jobs.files", "jobs.progress"),
    },
    "jobs.cli": {"jobs"},
}
"""Package or module, and what it may import of ours: a name stands for all that lies under it."""

ONLY_IN = {
    "torch": "jobs.ml",
    "transformers": "jobs.ml",
    "peft": "jobs.ml",
    "accelerate": "jobs.ml",
    "sentence_transformers": "jobs.ml",
    "faiss": "jobs.ml",
    "safetensors": "jobs.ml",
    "bm25s": "jobs.retrieval",
    "sacrebleu": "jobs.scoring",
    "rouge_score": "jobs.scoring",
    "starlette": "jobs.serving",
    "uvicorn": "jobs.serving",
    "kopf": "controller",
    "kubernetes": "controller",
    "boto3": "jobs.contracts.s3",
    "botocore": "jobs.contracts.s3",
}
"""Heavy or far-reaching libraries, and the one place (a prefix) for each."""

CONTRACTS_STAY_LIGHT = {"numpy", "pyarrow", "tokenizers"}


def sources() -> list[Path]:
    return sorted([*ROOT.glob("controller/**/*.py"), *ROOT.glob("jobs/**/*.py")])


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names that a file imports, with their lines; `from a import b` gives a.b where that is a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the full name, not a relative one"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if is_module(name) else str(node.module)), node.lineno


def is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def owner(name: str) -> str:
    """The entry of the table that a module falls under; the package `jobs` itself is free of imports."""
    return next((key for key in MAY_IMPORT if under(name, key)), "")


def wrong_direction(path: Path) -> Iterator[str]:
    here = module_name(path)
    allowed = MAY_IMPORT.get(owner(here), set())
    for name, line in imported(path):
        if name.split(".")[0] not in ("jobs", "controller") or name == "jobs":
            continue
        full = f"{name}.__init__" if ROOT.joinpath(*name.split(".")).is_dir() else name
        if not any(under(full, prefix) for prefix in allowed):
            yield f"{path.relative_to(ROOT)}:{line}: {here} must not import {name}"


def out_of_place(path: Path) -> Iterator[str]:
    here = module_name(path)
    for name, line in imported(path):
        library = name.split(".")[0]
        place = ONLY_IN.get(library)
        if place and not here.startswith(place):
            yield f"{path.relative_to(ROOT)}:{line}: {library} is for {place} alone"
        if library in CONTRACTS_STAY_LIGHT and under(here, "jobs.contracts"):
            yield f"{path.relative_to(ROOT)}:{line}: {library} is too heavy for jobs.contracts"


def test_every_source_falls_under_a_rule():
    free = {"jobs.__init__"}
    assert [name for path in sources() if not owner(name := module_name(path)) and name not in free] == []


def test_imports_go_one_way():
    assert [line for path in sources() for line in wrong_direction(path)] == []


def test_heavy_libraries_stay_in_their_place():
    assert [line for path in sources() for line in out_of_place(path)] == []


@pytest.mark.parametrize(
    ("module", "source", "verdict"),
    [
        (
            "jobs/stages/split.py",
            "from jobs.stages.parse import run",
            "jobs.stages.split must not import jobs.stages.parse",
        ),
        ("jobs/stages/split.py", "def f():\n    import controller.plan", "must not import controller.plan"),
        ("jobs/contracts/x.py", "from jobs import files", "must not import jobs.files"),
        ("jobs/stages/split.py", "from jobs.stages import Inputs", None),
        ("jobs/stages/split.py", "from jobs.mail import mbox", None),
    ],
)
def test_the_rule_itself_sees(module, source, verdict, tmp_path, monkeypatch):
    for name in (
        "jobs/stages/parse.py",
        "jobs/stages/__init__.py",
        "jobs/files.py",
        "jobs/mail/mbox.py",
        "controller/plan.py",
        module,
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / module).write_text(source)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    found = list(wrong_direction(tmp_path / module))
    assert [verdict in line for line in found] == [True] if verdict else found == []
