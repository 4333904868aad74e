"""Errors that only a client sees, beside those that the service sends (``memory_format.errors``).

    ServiceError                   no answer, or none that can be used; ``details`` says what is known
    |-- ServiceUnavailableError    nobody listens, the connection broke, or "come back later" (429, 503)
    |-- ServiceTimeoutError        it took longer than the client was told to wait
    `-- ProtocolError              something answered that does not speak this protocol
    PhaseTimeoutError              learners have not entered a phase in time

What the service refuses arrives as ``FormatError``, ``BudgetError``, ``NotFoundError``, ``ConflictError``,
``AccessError``, ``BusyError``, ``MissingLibraryError`` or ``StorageError``, with the service's ``code``, its words and
its ``details``. Two kinds of ``AccessError`` are about keys: ``UnauthenticatedError`` (401), ``ForbiddenError`` (403).
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import httpx

from memory_format.api.phases import LearnerPhase
from memory_format.errors import (
    AccessError,
    BudgetError,
    BusyError,
    ConflictError,
    ErrorCode,
    ExemplarMemoryError,
    FormatError,
    MissingLibraryError,
    NotFoundError,
    StorageError,
    UnauthenticatedError,
    error_class,
)

_PROBLEM_MEMBERS = {"type", "title", "status", "detail", "instance", "code"}


class ServiceError(Exception):
    """The service gave no answer that can be used."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class ServiceUnavailableError(ServiceError, ConnectionError):
    """Nobody answers, or the service asks to come back later.

    ``retry_after``: seconds that the service asked for, None where it did not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class ServiceTimeoutError(ServiceError, TimeoutError):
    """The answer took longer than the timeout allows. Whether the service acted on the request is unknown."""


class ProtocolError(ServiceError):
    """The answer is not what this client's version of the protocol calls for."""


class PhaseTimeoutError(TimeoutError):
    """Learners have not entered a phase in the time that was given.

    Attributes:
        missing: the ids of those that are behind, or that have not said anything where they were named.
        phases: learner id -> the phase that it is in, as :meth:`client.Buffer.phases` has it.
    """

    def __init__(self, message: str, missing: Sequence[str], phases: Mapping[str, LearnerPhase]) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.phases = dict(phases)

    def __reduce__(self) -> tuple[Any, ...]:
        # Also out of a pool's process: exceptions are made again of ``args``, which are the message alone.
        return type(self), (str(self), self.missing, self.phases)


def error_from_response(response: httpx.Response) -> ExemplarMemoryError | ServiceError:
    """The exception for an answer with an error status: by its ``code`` where it is a problem document."""
    try:
        problem = json.loads(response.content)
        code, detail = problem["code"], problem.get("detail") or problem.get("title") or ""
        if not isinstance(code, str) or not isinstance(detail, str):
            raise TypeError("not a problem document")
    except (ValueError, KeyError, TypeError, AttributeError):
        return _without_code(response)
    details = {key: value for key, value in problem.items() if key not in _PROBLEM_MEMBERS}
    # A newer service may know codes that this client does not: the status still says what kind it is.
    kind = error_class(code) or _class_of_status(response.status_code)
    error = kind(detail, code=cast(ErrorCode, code))
    error.details = details
    return error


def retry_after_seconds(response: httpx.Response) -> float | None:
    """``Retry-After`` as seconds from now (it may be a number or a date), None where absent or unreadable."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _class_of_status(status: int) -> type[ExemplarMemoryError]:
    known: dict[int, type[ExemplarMemoryError]] = {
        401: UnauthenticatedError,
        403: AccessError,
        404: NotFoundError,
        409: ConflictError,
        429: BusyError,
        501: MissingLibraryError,
        507: BudgetError,
    }
    return known.get(status, FormatError if status < 500 else StorageError)


def _without_code(response: httpx.Response) -> ServiceError:
    start = response.text[:200].strip() or "an empty body"
    said = f"{response.request.method} {response.request.url}: status {response.status_code}, {start}"
    if response.status_code in (429, 503):
        return ServiceUnavailableError(said, retry_after=retry_after_seconds(response), status=response.status_code)
    if response.is_redirect:
        target = response.headers.get("Location")
        return ProtocolError(f"{said} (a redirect to {target}: give that service's own address)")
    return ProtocolError(said + " (not a problem document: is this a memory service?)", status=response.status_code)
