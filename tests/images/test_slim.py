"""images/slim.py, on a folder of packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def slim(site: Path, lines: str, *flags: str) -> subprocess.CompletedProcess[str]:
    unused = site.with_name("unused.txt")
    unused.write_text(lines)
    command = [sys.executable, ROOT / "images" / "slim.py", site, unused, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def packages(folder: Path) -> Path:
    site = folder / "site-packages"
    (site / "data" / "kept").mkdir(parents=True)
    (site / "data" / "gone").mkdir()
    (site / "module.py").write_text("VALUE = 7\n")
    return site


def value_of(site: Path) -> str:
    command = [sys.executable, "-c", "import module; print(module.VALUE, module.__file__)"]
    return subprocess.run(command, cwd=site, capture_output=True, text=True, check=True).stdout


def test_what_is_listed_goes_but_what_stays(tmp_path: Path) -> None:
    site = packages(tmp_path)
    done = slim(site, "# a comment\ndata/*/  # and another\n!data/kept\n")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (site / "data").iterdir()] == ["kept"]


def test_a_line_that_meets_nothing_is_an_error(tmp_path: Path) -> None:
    done = slim(packages(tmp_path), "data\nmissing/*\n")
    assert done.returncode != 0
    assert "missing/*" in done.stderr


def test_byte_code_stands_beside_the_sources(tmp_path: Path) -> None:
    site = packages(tmp_path)
    slim(site, "")
    (compiled,) = site.rglob("*.pyc")
    (site / "module.py").write_text("VALUE = 8\n")
    assert value_of(site).startswith("7"), "it is never compared with its source"
    assert compiled.parent.name == "__pycache__"


@pytest.mark.skipif(not shutil.which("strip"), reason="no strip: install binutils")
def test_in_a_light_image_it_takes_their_place(tmp_path: Path) -> None:
    site = packages(tmp_path)
    for name in ("lib.so", "lib.so.1"):
        (site / name).write_bytes(Path(sys.executable).resolve().read_bytes())
    done = slim(site, "", "--light")
    assert done.returncode == 0, done.stderr
    assert not (site / "module.py").exists()
    assert value_of(site).split() == ["7", str(site / "module.pyc")]
    assert (site / "lib.so.1").readlink() == Path("lib.so")
