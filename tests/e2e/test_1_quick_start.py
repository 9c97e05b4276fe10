"""docs/quick-start.md, from an empty cluster to an answered question, as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from e2e import kube

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
PAGE = kube.ROOT / "docs" / "quick-start.md"
CORPUS = kube.ROOT.parent / "shared" / "corpora" / "linux-raid-2019H2"
ON_THE_MACHINE = "## 1. Images"
"""What `make e2e` does before there is a cluster."""


def sections() -> dict[str, str]:
    """The commands below each heading of the page."""
    parts = re.split(r"^(## .*)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return {title: "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)) for title, text in found.items()}


def test_a_reader_gets_an_answer_with_its_sources(tmp_path: Path) -> None:
    steps = sections()
    assert "make images" in steps.pop(ON_THE_MACHINE)
    steps = {title: commands for title, commands in steps.items() if commands}
    assert [title[3] for title in steps] == ["2", "3", "4", "5"]
    script = "\n".join(f"echo '== {title}' $SECONDS\n{commands}" for title, commands in steps.items())
    environment = os.environ | {"REGISTRY": kube.REGISTRY} | of_the_corpus()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{script}\necho == $SECONDS"],
        cwd=kube.ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    print("\n".join(line for line in done.stdout.splitlines() if line.startswith("==")))
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}\n{kube.state_of_things('mail')}"
    cycle = kube.get("retraincycle", "first", "mail")
    assert cycle["status"]["state"] == "Promoted", cycle["status"]
    answer = json.loads((kube.ROOT / "build" / "quick-start" / "answer.json").read_text())
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    assert answer["refrain"]["adapter"] == cycle["status"]["candidate"]["sha256"]
    assert any("raid" in source["text"].lower() for source in answer["refrain"]["sources"]) or not of_the_corpus()
    assert all(source["message_id"] for source in answer["refrain"]["sources"])


def of_the_corpus() -> dict[str, str]:
    """Real mail, where it is beside the project; without it the page's own is taken."""
    months = sorted(CORPUS.glob("2019-0[789].mbox"))
    question = "Why does my raid6 array not assemble after the reboot?"
    return {"MAIL": " ".join(map(str, months)), "QUESTION": question} if months else {}
