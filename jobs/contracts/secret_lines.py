"""Files of secrets, as the inference server and who calls it read them. Pure."""

from __future__ import annotations


def secrets_in(text: str) -> list[str]:
    """One a line, white space around it aside; a line that begins with `#` is a comment."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
