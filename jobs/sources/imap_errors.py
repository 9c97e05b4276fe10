"""What IMAP servers refuse, and what becomes of connections to them, as the errors of `jobs.contracts.errors`."""

from __future__ import annotations

import imaplib
import re
import ssl

from imapclient.exceptions import IMAPClientError, LoginError

from jobs.contracts.errors import AccessError, InputError, RefrainError, TransientError

_CODE = re.compile(r"\[([A-Z]+)[] ]", re.IGNORECASE)
_PASSING_CODES = frozenset(("UNAVAILABLE", "INUSE", "EXPUNGEISSUED", "SERVERBUG", "LIMIT", "OVERQUOTA"))
_LASTING_CODES = frozenset((
    "AUTHENTICATIONFAILED", "AUTHORIZATIONFAILED", "EXPIRED", "PRIVACYREQUIRED", "CONTACTADMIN", "NOPERM",
    "CORRUPTION", "CLIENTBUG", "CANNOT", "NONEXISTENT",
))  # fmt: skip
_PASSING_WORDS = re.compile(
    r"too many (?:\w+ )*connections|too many simultaneous|number of connections|command or bandwidth limits"
    r"|throttled|temporar|(?:server|service) unavailable|try again later",
    re.IGNORECASE,
)


def is_passing(answer: str) -> bool:
    """Whether a server may grant later what it refuses now: by the response code of its answer (RFC 5530, 3).

    UNAVAILABLE (what it needs is down), INUSE (somebody has locked it) and EXPUNGEISSUED pass by what they mean there.
    SERVERBUG is what Dovecot says of any trouble within it, LIMIT of too many connections, and OVERQUOTA Gmail of too
    many bytes in a day: nothing that we ask for takes room. Not so where somebody has to do something first. Without
    a code of either kind (ALERT says nothing of it) the words count.
    """
    match = _CODE.search(answer)
    code = match[1].upper() if match is not None else ""
    return code in _PASSING_CODES or (code not in _LASTING_CODES and _PASSING_WORDS.search(answer) is not None)


def translated(
    error: IMAPClientError | OSError,
    *,
    where: str,
    refused: type[RefrainError] = InputError,
    what: str = "the server refused",
) -> RefrainError:
    """The error that the user is told; what a server refuses for good is `refused`, with `what` before its reason."""
    reason = _reason(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return AccessError(
            f"the server's certificate is not trusted: {error.verify_message}",
            where=where,
            hint="name the certificates of a private CA with --imap-ca or REFRAIN_IMAP_CA",
        )
    if isinstance(error, OSError) or _is_over(error, reason):
        return TransientError(f"the connection failed: {reason}", where=where, hint="nothing was written; run it again")
    if is_passing(reason):
        return TransientError(
            f"the server refused for now: {reason}", where=where, hint="nothing was written; run it again later"
        )
    if isinstance(error, LoginError):
        return AccessError(
            f"the server refused the credentials: {reason}",
            where=where,
            hint="check REFRAIN_IMAP_PASSWORD or REFRAIN_IMAP_TOKEN, or the file that each _FILE names",
        )
    return refused(f"{what}: {reason}", where=where)


def _is_over(error: IMAPClientError, reason: str) -> bool:
    """Whether the connection has ended, which says nothing of what was asked for, nor of the password."""
    # imapclient makes LoginErrors of whatever happens meanwhile; and a greeting may be a farewell (RFC 3501, 7.1.5).
    return isinstance(error, imaplib.IMAP4.abort) or (
        isinstance(error.__context__, imaplib.IMAP4.abort) or reason.startswith("* BYE")
    )


def _reason(error: Exception) -> str:
    """What an error says, on one line; servers' answers come as bytes that were printed."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if text.startswith(("b'", 'b"')):
        text = text[2:-1]
    return " ".join(text.replace(r"\r\n", " ").split()) or type(error).__name__
