"""Who may ask, and how many at a time."""

from __future__ import annotations

import hashlib
import hmac
import logging
from dataclasses import dataclass
from pathlib import Path

from jobs.contracts.errors import ConfigError
from jobs.contracts.secret_lines import secrets_in
from jobs.files import input_error
from jobs.serving.api import RequestError

logger = logging.getLogger("refrain.serve")

_RETRY_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one client, or all of them, may ask for."""

    max_body_bytes: int = 1 << 20
    max_prompt_tokens: int | None = None
    """None: as many as the model reads."""
    max_new_tokens: int = 2048
    """The most that a client may ask for."""
    max_active: int = 32
    """Answers that grow at a time."""
    max_waiting: int = 64
    """Answers that wait for their turn; who wants one more is told to come back."""
    request_seconds: float = 300.0
    """How long one may take, waiting included."""


class SecretFile:
    """Secrets in a file (see `secrets_in`). It is read anew whenever it changes.

    Where it cannot be read any more, nothing is let in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: object = None
        self._digests: list[bytes] = []
        try:
            self._read()
        except OSError as error:
            raise input_error(path, error) from error
        if not self._digests:
            raise ConfigError("it holds no secret", where=str(path), hint="write one a line")

    def holds(self, secret: str) -> bool:
        """Whether a secret is one of them; takes as long for any."""
        try:
            self._read()
        except OSError as error:
            logger.error("%s cannot be read (%s): nobody is let in", self._path, error.strerror)
            self._seen, self._digests = None, []
        wanted = _digest(secret)
        found = False
        for one in self._digests:
            found |= hmac.compare_digest(one, wanted)
        return found

    def _read(self) -> None:
        now = self._path.stat()
        seen = (now.st_mtime_ns, now.st_ino, now.st_size)
        if seen != self._seen:
            self._digests = [_digest(secret) for secret in secrets_in(self._path.read_text())]
            self._seen = seen


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


class Keys:
    """The API's keys, and the token of who may change the adapter."""

    def __init__(self, api_keys: SecretFile | None, swap_token: SecretFile | None) -> None:
        self._api_keys = api_keys
        self._swap_token = swap_token

    def require_client(self, header: str) -> None:
        """RequestError unless who asks may ask. Who may change the adapter may ask, too."""
        if self._api_keys is None:
            return
        key = _bearer(header)
        if not self._api_keys.holds(key) and not (self._swap_token and self._swap_token.holds(key)):
            raise RequestError("no such API key", status=401, code="invalid_api_key")

    def require_operator(self, header: str) -> None:
        """RequestError unless who asks may change the adapter."""
        if self._swap_token is None:
            raise RequestError("this server changes no adapter: it has no token", status=403, code="no_swap_token")
        if not self._swap_token.holds(_bearer(header)):
            raise RequestError("not the token", status=401, code="invalid_token")


def _bearer(header: str) -> str:
    kind, _, secret = header.partition(" ")
    return secret.strip() if kind.lower() == "bearer" else ""


class Gate:
    """Counts who is inside. For one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.most_answers = limits.max_active + limits.max_waiting
        self.num_answers = 0
        """That grow or wait; a request may want several."""
        self.num_requests = 0

    def take(self, number: int) -> None:
        """Count so many more answers; RequestError where there is no room for them all."""
        if self.num_answers + number > self.most_answers:
            raise RequestError(
                "too many requests wait already", status=429, code="rate_limit_exceeded", retry=_RETRY_SECONDS
            )
        self.num_answers += number
