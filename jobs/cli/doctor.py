"""`refrain doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import click

from jobs import __version__
from jobs.cli import options
from jobs.contracts.errors import ConfigError, RefrainError
from jobs.processes import num_cpus

Mark = Literal["ok", "warning", "missing"]

_COLOURS: dict[Mark, str] = {"ok": "green", "warning": "yellow", "missing": "red"}
_GIB = 1 << 30
_LITTLE_MEMORY_BYTES = 2 * _GIB
_LITTLE_DISK_BYTES = 2 * _GIB
_COMPILED = ("numpy", "orjson", "pyarrow", "tokenizers", "zstandard")
"""Packages that may be installed and still not work here: they are imported."""
_EXTRAS = {
    "train": "training, the index and evaluation",
    "demo": "an embedding model that needs no network, as the demo and the example cycle use it",
    "controller": "the cluster's commands",
}
_S3_VARIABLES = re.compile(r"AWS_(?!PAGER|CLI_)[A-Z0-9_]+|REFRAIN_(STORE|S3_[A-Z0-9_]+)")
_IMAP_VARIABLES = re.compile(r"REFRAIN_IMAP_[A-Z0-9_]+")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    mark: Mark
    value: str
    hint: str = ""
    needed: bool = False
    """Whether the data stages need it."""


@click.command("doctor")
@options.store
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(*, store: str | None, as_json: bool) -> None:
    """Say what this machine has and lacks.

    With --store it also opens the store for writing, as `split` would, and proves that of 24
    racing writers of one key exactly one wins; a folder that was not there is gone again afterwards.
    Values of settings are never printed.

    Fails where something that the data stages need is missing.
    """
    findings = [*_system(), *_core(), *_extras(), _accelerator(), _tokenizers(), *_settings()]
    store_error = None
    if store:
        finding, store_error = _store(store)
        findings.append(finding)
    _print(findings, as_json=as_json)
    lacking = [finding.name for finding in findings if finding.needed and finding.mark == "missing"]
    if lacking:
        raise ConfigError(f"the data stages need what is missing here: {', '.join(lacking)}")
    if store_error:
        raise store_error


def _print(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = click.style(f"{finding.mark:7}", fg=_COLOURS[finding.mark])
        click.echo(f"{mark}  {finding.name:{width}}  {finding.value}")
        if finding.hint:
            click.echo(f"{'':7}  {'':{width}}  {finding.hint}")


def _system() -> Iterator[Finding]:
    yield Finding("refrain", "ok", f"{__version__} in {Path(__file__).parents[2]}")
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("CPUs", "ok", str(num_cpus()))
    memory = _memory_bytes()
    yield Finding(
        "memory",
        "ok" if memory >= _LITTLE_MEMORY_BYTES else "warning",
        f"{memory / _GIB:.1f} GiB",
        "" if memory >= _LITTLE_MEMORY_BYTES else "enough for small archives",
    )
    for name, folder in {"disk here": Path.cwd(), "disk for scratch": Path(tempfile.gettempdir())}.items():
        yield _disk(name, folder)


def _memory_bytes() -> int:
    """Memory of the machine, or of the container where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total


def _disk(name: str, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Finding(name, "warning", f"{folder} cannot be written")
    hint = "" if free >= _LITTLE_DISK_BYTES else "little room for an archive"
    return Finding(name, "warning" if hint else "ok", f"{free / _GIB:.1f} GiB free in {folder}", hint)


def _requirements() -> Iterator[tuple[str, str, str]]:
    """Package, least version, and extra (or nothing) of everything that the distribution asks for."""
    try:
        lines = metadata.requires("refrain") or []
    except metadata.PackageNotFoundError:  # a source tree that was never installed
        lines = []
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        least = re.search(r">=\s*([\d.]+)", line.partition(";")[0])
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
        yield name[0] if name else line, least[1] if least else "0", extra[1] if extra else ""


def _core() -> Iterator[Finding]:
    for name, least, extra in _requirements():
        if not extra:
            yield _package(name, least)


def _package(name: str, least: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(name, "missing", "not installed", f"pip install {name}", needed=True)
    if _numbers(version) < _numbers(least):
        hint = f"pip install --upgrade {name}"
        return Finding(name, "missing", f"{version}, but {least} or newer is needed", hint, needed=True)
    if name in _COMPILED:
        try:
            import_module(name)
        except ImportError as error:
            hint = f"pip install --force-reinstall {name}"
            return Finding(name, "missing", f"{version} cannot be loaded: {error}", hint, needed=True)
    return Finding(name, "ok", version, needed=True)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _extras() -> Iterator[Finding]:
    for extra, purpose in _EXTRAS.items():
        names = [name for name, _, of in _requirements() if of == extra]
        absent = [name for name in names if _version(name) is None]
        if absent:
            hint = f"for {purpose}: pip install 'refrain[{extra}]'"
            yield Finding(f"extra {extra}", "missing", f"without {', '.join(absent)}", hint)
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(f"{name} {_version(name)}" for name in names))


def _accelerator() -> Finding:
    if find_spec("torch") is None:
        return Finding("accelerator", "missing", "not looked for: torch is not installed")
    from jobs.ml.accelerators import accelerators

    found = accelerators()
    if not found:
        return Finding("accelerator", "warning", "none", "training runs on the CPU, for small models alone")
    return Finding("accelerator", "ok", "; ".join(found))


def _tokenizers() -> Finding:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cached = sorted(
        {path.parents[2].name.removeprefix("models--").replace("--", "/") for path in home.glob(_CACHED_TOKENIZERS)}
    )
    shown = ", ".join(cached[:5]) + (f" and {len(cached) - 5} more" if len(cached) > 5 else "")
    return Finding("base models' tokenizers", "ok", f"whitespace{', ' if shown else ''}{shown}")


_CACHED_TOKENIZERS = "hub/models--*/snapshots/*/tokenizer.json"


def _settings() -> Iterator[Finding]:
    names = sorted(name for name in os.environ if _S3_VARIABLES.fullmatch(name))
    if Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials").is_file():
        names.append("a credentials file")
    half = ("AWS_ACCESS_KEY_ID" in names) != ("AWS_SECRET_ACCESS_KEY" in names)
    yield Finding(
        "S3 settings",
        "warning" if half else "ok",
        ", ".join(names) or "none; a store may be a folder",
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together" if half else "",
    )
    names = sorted(name for name in os.environ if _IMAP_VARIABLES.fullmatch(name))
    yield Finding("IMAP settings", "ok", ", ".join(names) or "none")


def _store(url: str) -> tuple[Finding, RefrainError | None]:
    from jobs.contracts.folder_store import unless_unused
    from jobs.contracts.store import StoreOptions, open_store, store_folder

    folder = store_folder(url)
    try:
        with unless_unused(folder) if folder else nullcontext():
            opened = open_store(url, StoreOptions.from_environment())
    except RefrainError as error:
        return Finding("store", "missing", error.what, error.hint), error
    return Finding("store", "ok", f"{opened.url}: of 24 racing writers one won"), None
