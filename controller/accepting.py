"""Whether a cycle may be followed here. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from controller.cycles import Cycle
from controller.settings import Settings


def refused(cycle: Cycle, settings: Settings) -> tuple[str, str] | None:
    """Why a cycle is not followed: a reason and what to do; None where it is."""
    if cycle.spec is None:
        return "InvalidSpec", f"{cycle.problem}; mend it, or let a newer version of the controller take it up"
    secret = cycle.spec.store.secret_ref
    if secret is not None and secret.name not in settings.store.secrets:
        allowed = ", ".join(settings.store.secrets) or "none"
        message = f"spec.store.secretRef names {secret.name}; the controller allows: {allowed} (store.secrets)"
        return "SecretNotAllowed", message
    strange = [host for host in _imap_hosts(cycle) if host not in settings.mail.imap_hosts]
    if strange:
        allowed = ", ".join(settings.mail.imap_hosts) or "none"
        message = f"spec.sources names {strange[0]}; the controller allows: {allowed} (mail.imapHosts)"
        return "MailHostNotAllowed", message
    return None


def _imap_hosts(cycle: Cycle) -> list[str]:
    """Servers that would be told the password of the mailbox."""
    return [urlsplit(source.imap).hostname or "" for source in cycle.sources if source.imap]
