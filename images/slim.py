"""Takes out of installed packages what this program never loads; runs in a build stage, with Python alone.

    python3 slim.py SITE_PACKAGES LIST [--light]

A line of LIST is a glob within SITE_PACKAGES, with `!` before what stays nevertheless. A glob that meets nothing is
an error: a package has changed, and so must the list. What is left is compiled, since nothing can be written next
to it later. --light takes out debug symbols, copies of libraries, and sources: the byte code takes their place, and
a traceback names their lines and does not show them.
"""

from __future__ import annotations

import compileall
import hashlib
import py_compile
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import cache_from_source
from pathlib import Path


def read_list(file: Path) -> tuple[list[str], list[str]]:
    """Globs of what goes, and of what stays nevertheless."""
    lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
    return [line for line in lines if line and line[0] != "!"], [line[1:] for line in lines if line.startswith("!")]


def remove(site: Path, globs: list[str], kept_globs: list[str]) -> None:
    """Take out files and folders."""
    kept = {path for glob in kept_globs for path in _matches(site, glob)}
    for glob in globs:
        for path in set(_matches(site, glob)) - kept:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _matches(site: Path, glob: str) -> list[Path]:
    found = list(site.glob(glob))
    if not found:
        sys.exit(f"slim.py: nothing in {site} is {glob}")
    return found


def link_copies(site: Path) -> None:
    """Libraries that wheels, which know no links, hold several times."""
    first: dict[tuple[Path, bytes], Path] = {}
    for path in _libraries(site):
        same = first.setdefault((path.parent, _digest(path)), path)
        if same != path:
            path.unlink()
            path.symlink_to(same.name)


def _libraries(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.so*")) if path.is_file() and not path.is_symlink()]


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def strip(site: Path) -> None:
    """No debug symbols; *.libs were changed by auditwheel, which strip does not understand."""
    for path in _libraries(site):
        if not path.parent.name.endswith(".libs"):
            subprocess.run(["strip", "--strip-unneeded", path], check=True)


def compile_all(site: Path, *, in_place: bool) -> None:
    """Byte code that is never compared with its source, which cannot change; in place of it, or beside it."""
    sources = [path for path in site.rglob("*.py") if in_place or not Path(cache_from_source(path)).exists()]
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compile_file = partial(compileall.compile_file, quiet=2, invalidation_mode=mode, legacy=in_place)
    with ProcessPoolExecutor() as pool:
        compiled = list(pool.map(compile_file, sources, chunksize=64))
    for path, is_compiled in zip(sources, compiled, strict=True):
        if in_place and is_compiled:
            path.unlink()


def main() -> None:
    """All of it."""
    site, file, is_light = Path(sys.argv[1]), Path(sys.argv[2]), "--light" in sys.argv[3:]
    remove(site, *read_list(file))
    if is_light:
        link_copies(site)
        strip(site)
    compile_all(site, in_place=is_light)


if __name__ == "__main__":
    main()
