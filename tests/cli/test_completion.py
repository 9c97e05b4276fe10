"""Shell completion: the scripts, and one of them in a real shell."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from components import require

from jobs.cli import COMMANDS


@pytest.mark.parametrize(
    ("shell", "sign"),
    [
        ("bash", "complete -o nosort -F _refrain_completion refrain"),
        ("zsh", "#compdef refrain"),
        ("fish", "complete --no-files"),
    ],
)
def test_each_shell_has_a_script_of_its_own(refrain, shell, sign):
    run = refrain("completion", shell)
    assert run.returncode == 0
    assert sign in run.stdout


def test_help_says_how_to_install_it(refrain):
    shown = refrain("completion", "--help").stdout
    assert "~/.bashrc" in shown
    assert "~/.zshrc" in shown
    assert "~/.config/fish" in shown


def test_another_shell_is_refused(refrain):
    run = refrain("completion", "tcsh")
    assert run.returncode == 2
    assert "'bash', 'zsh', 'fish'" in run.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("", {*COMMANDS, "controller", "cycle"}),
        ("sp", {"split"}),
        ("do", {"doctor"}),
        ("doctor --j", {"--json"}),
        ("completion z", {"zsh"}),
    ],
)
def test_bash_offers_commands_and_flags(words, offered):
    require(shutil.which("bash"), "bash is not installed")
    split = ["refrain", *words.split(" ")]
    quoted = " ".join(f"'{word}'" for word in split)
    script = f"""
source <(refrain completion bash)
COMP_WORDS=({quoted})
COMP_CWORD={len(split) - 1}
_refrain_completion refrain
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    run = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": "/"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(run.stdout.split()) >= offered
    assert len(run.stdout.split()) == len(offered)
