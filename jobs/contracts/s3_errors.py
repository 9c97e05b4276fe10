"""What S3 servers and the SDK report, as the errors of `jobs.contracts.errors`."""

from __future__ import annotations

from http import HTTPStatus

from botocore import exceptions as sdk
from botocore.exceptions import ClientError

from jobs.contracts.errors import (
    AccessError,
    ConfigError,
    MissingInputError,
    OutputError,
    RefrainError,
    TransientError,
    UsageError,
)

_CREDENTIALS_HINT = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN where there is one), or AWS_PROFILE"
)
_ACCESS_HINT = (
    "the credentials need s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:DeleteObject below it"
)
_DENIED = (AccessError, "access denied", _ACCESS_HINT)
_EXPIRED = (AccessError, "the credentials have expired", "get new ones")
_ABSENT = (MissingInputError, "no such object", "")
_OTHER_REGION = (ConfigError, "the bucket is in another region", "set AWS_REGION")
_FULL = (OutputError, "the store is full", "free some space and run the same command again")
_REPLACED = (TransientError, "the object was replaced while it was read", "run the same command again")

_KNOWN: dict[str, tuple[type[RefrainError], str, str]] = {
    "InvalidAccessKeyId": (AccessError, "the store does not know this access key", "check AWS_ACCESS_KEY_ID"),
    "SignatureDoesNotMatch": (
        AccessError,
        "the secret key does not fit the access key",
        "check AWS_SECRET_ACCESS_KEY",
    ),
    "InvalidToken": (AccessError, "the session token was refused", "check AWS_SESSION_TOKEN"),
    "RequestTimeTooSkewed": (AccessError, "this machine's clock is wrong", "set the clock"),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "AccessDenied": _DENIED,
    "Forbidden": _DENIED,
    "403": _DENIED,  # the status stands for the code in an answer without a body
    "NoSuchBucket": (MissingInputError, "no such bucket", "make the bucket, or check its name and the endpoint"),
    "NoSuchKey": _ABSENT,
    "NotFound": _ABSENT,
    "404": _ABSENT,
    "PermanentRedirect": _OTHER_REGION,
    "301": _OTHER_REGION,
    "AuthorizationHeaderMalformed": _OTHER_REGION,
    "QuotaExceeded": _FULL,
    "InsufficientStorage": _FULL,
    "507": _FULL,
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "PreconditionFailed": _REPLACED,
    "412": _REPLACED,
}
"""What the user is told, by the server's error code."""

_BUSY = (
    "SlowDown",
    "RequestTimeout",
    "RequestTimeoutException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
)
_NO_CREDENTIALS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.TokenRetrievalError,
    sdk.ProfileNotFound,
)

_NO_ANSWER = (sdk.ConnectionError, sdk.HTTPClientError)


def error_code(error: Exception) -> str:
    """The server's error code; the status, as text, of an answer without a body; empty for an SDK error."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_precondition_failed(error: Exception) -> bool:
    """Whether the object of a conditional write is there already."""
    return error_code(error) == "PreconditionFailed" or _status(error) == HTTPStatus.PRECONDITION_FAILED


def is_conflict(error: Exception) -> bool:
    """Whether two conditional writes met: the same one is to be sent again."""
    return error_code(error) == "ConditionalRequestConflict" or _status(error) == HTTPStatus.CONFLICT


def is_uncertain(error: Exception) -> bool:
    """Whether the request may or may not have been carried out, and the same again may succeed."""
    if isinstance(error, ClientError):
        code, status = error_code(error), _status(error)
        busy = code in _BUSY or status == HTTPStatus.TOO_MANY_REQUESTS
        return busy or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and _KNOWN.get(code) is not _FULL)
    return isinstance(error, _NO_ANSWER) and not _is_bad_certificate(error)


def translated(error: Exception, *, where: str, endpoint: str) -> RefrainError:
    """The error that the user is told. `where` is the object's URL."""
    if isinstance(error, ClientError):
        return _from_server(error, where=where, endpoint=endpoint)
    return _from_sdk(error, where=where, endpoint=endpoint)


def _from_server(error: ClientError, *, where: str, endpoint: str) -> RefrainError:
    code = error_code(error)
    if code in _KNOWN:
        cls, what, hint = _KNOWN[code]
        return cls(f"{what} ({code}, {endpoint})", where=where, hint=hint)
    if is_uncertain(error) or is_conflict(error):
        return TransientError(f"the store is in trouble ({code}, {endpoint})", where=where, hint="try again later")
    message = error.response.get("Error", {}).get("Message", "")
    return OutputError(f"the store refused {error.operation_name}: {code}: {message} ({endpoint})", where=where)


def _from_sdk(error: Exception, *, where: str, endpoint: str) -> RefrainError:
    if isinstance(error, _NO_CREDENTIALS):
        return AccessError(f"no credentials for S3: {error}", where=where, hint=_CREDENTIALS_HINT)
    if _is_bad_certificate(error):
        return ConfigError(
            f"the certificate of {endpoint} is not trusted: {error}",
            where=where,
            hint="name the file with your CA's certificates in AWS_CA_BUNDLE",
        )
    if isinstance(error, _NO_ANSWER):
        return TransientError(
            f"cannot reach {endpoint} ({error})",
            where=where,
            hint="check the endpoint (AWS_ENDPOINT_URL) and try again",
        )
    return UsageError(f"S3: {error}", where=where)


def _status(error: Exception) -> int:
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_bad_certificate(error: Exception) -> bool:
    return isinstance(error, sdk.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)
