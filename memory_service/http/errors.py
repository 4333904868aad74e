"""Errors as RFC 9457 problem documents. The one place where an error meets an HTTP status."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from memory_format import BudgetError, ErrorCode, ExemplarMemoryError
from memory_format.api.problems import words_of
from memory_format.api.terms import PROBLEM_MEDIA_TYPE
from memory_service.logs import hide_keys

logger = logging.getLogger(__name__)

PROBLEMS: Final[Mapping[ErrorCode, tuple[int, str]]] = {
    "invalid_request": (422, "The request is malformed"),
    "invalid_batch": (422, "The body is not a batch of records"),
    "batch_too_large": (413, "More than is taken or given at once"),
    "invalid_record": (422, "A record is malformed"),
    "mask_mismatch": (422, "A mask does not match what it masks"),
    "invalid_payload": (422, "A payload is not what its codec makes"),
    "payload_mismatch": (422, "A payload is of another size than its mask says"),
    "unknown_codec": (422, "The codec is not known here"),
    "invalid_query": (422, "The query cannot be answered"),
    "invalid_cursor": (422, "The cursor is not one of this query"),
    "invalid_budget": (422, "The budget is not a usable number of bytes"),
    "invalid_export": (422, "The file is not an exported buffer"),
    "not_acceptable": (406, "What is asked for is not given in this form"),
    "record_exceeds_budget": (413, "A record is larger than the whole budget"),
    "budget_exceeded": (507, "The records do not fit the budget"),
    "disk_limit_exceeded": (507, "There is no room on disk"),
    "quota_exceeded": (507, "The service has no such budget to give"),
    "learner_quota_exceeded": (507, "The learner has no such bytes left"),
    "unknown_buffer": (404, "There is no such buffer"),
    "unknown_exemplar": (404, "There is no such exemplar"),
    "unknown_route": (404, "There is nothing at this address"),
    "no_matching_exemplars": (404, "No exemplar matches"),
    "unknown_snapshot": (404, "There is no such snapshot"),
    "unknown_run": (404, "There is no such run"),
    "unknown_key": (404, "There is no such key"),
    "unknown_vocabulary": (404, "The words of the buffer's vocabulary are not known"),
    "buffer_exists": (409, "The buffer exists with other settings"),
    "idempotency_key_reused": (409, "The idempotency key was used for another body"),
    "snapshot_exists": (409, "The snapshot exists and shows something else"),
    "stale_version": (409, "The buffer has changed since"),
    "patch_size_mismatch": (409, "The buffer holds patches of another size"),
    "vocabulary_mismatch": (409, "The buffer holds texts of another vocabulary"),
    "class_name_taken": (409, "The class has another name, or the name is of another class"),
    "other_owner": (409, "The buffer belongs to another run"),
    "precondition_failed": (412, "The record has another revision"),
    "untrusted_host": (403, "The service does not answer to this name"),
    "untrusted_origin": (403, "A page of another site sends this"),
    "unauthenticated": (401, "A key is needed, and none that is good came"),
    "forbidden": (403, "The key is not for this"),
    "too_busy": (429, "More is under way than is taken at once"),
    "rate_exceeded": (429, "The key has asked too often"),
    "connections_exceeded": (429, "The key has too many connections"),
    "codec_unavailable": (501, "A codec's library is not installed here, or only an earlier version reads it"),
    "corrupt_record": (500, "A stored record is damaged"),
    "store_locked": (503, "The store is held by another process"),
    "storage_failed": (503, "The store cannot read or write"),
    "internal_error": (500, "The service failed"),
    "replica_behind": (503, "The replica has not caught up with the others"),
}
"""Code -> status and title, for every code of ``memory_format.errors``."""

_HEADERS: Final[Mapping[ErrorCode, Mapping[str, str]]] = {
    # Seconds.
    "too_busy": {"Retry-After": "1"},
    "rate_exceeded": {"Retry-After": "1"},
    "connections_exceeded": {"Retry-After": "1", "Connection": "close"},
    "storage_failed": {"Retry-After": "1"},
    "replica_behind": {"Retry-After": "1"},
    "unauthenticated": {"WWW-Authenticate": 'Bearer realm="exemplar-memory"'},
}


def problem_document(
    code: ErrorCode, detail: str, *, status: int | None = None, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The members of a problem document; ``details`` become members of their own."""
    usual, title = PROBLEMS[code]
    return {
        "type": f"urn:exemplar-memory:problem:{code}",
        "title": title,
        "status": usual if status is None else status,
        "detail": detail,
        "code": code,
        **(details or {}),
    }


class _ProblemResponse(JSONResponse):
    media_type = PROBLEM_MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        return hide_keys(super().render(content).decode()).encode()


def problem_response(
    code: ErrorCode,
    detail: str,
    *,
    status: int | None = None,
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    document = problem_document(code, detail, status=status, details=details)
    headers = _HEADERS.get(code, headers)
    return _ProblemResponse(document, document["status"], headers)


class BodyTooLargeError(HTTPException):
    """A body over its limit.

    An ``HTTPException``, because FastAPI turns any other exception raised while it reads a body into a 400.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body is larger than the {limit} bytes taken here")
        self.limit = limit


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem document."""
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unexpected)


def answer_to(request: Request, error: Refusal) -> Response:
    """The answer to what was refused."""
    return next(answer for kind, answer in _ANSWERS.items() if isinstance(error, kind))(request, error)


def _on_own_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ExemplarMemoryError)
    if PROBLEMS[error.code][0] >= 500 and not isinstance(error, BudgetError):
        logger.error("%s %s: %s: %s", request.method, request.url.path, error.code, error.message)
    return problem_response(error.code, error.message, details=error.details)


def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(map(str, item["loc"])), "message": words_of(item, _known_beside(request, item))}
        for item in error.errors()[:16]
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
    return problem_response("invalid_request", detail, details={"errors": errors})


def _known_beside(request: Request, problem: Mapping[str, Any]) -> Iterable[str]:
    """Members that a body may have; of an object in it, the OpenAPI document says them."""
    field = getattr(request.scope.get("route"), "body_field", None)
    model = problem.get("model", field and field.field_info.annotation)
    is_member = len(problem["loc"]) == 2 and isinstance(model, type) and issubclass(model, BaseModel)
    return model.model_fields if is_member else ()


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, BodyTooLargeError):
        return problem_response("batch_too_large", error.detail, details={"limit": error.limit})
    path = request.scope["path"]
    if error.status_code == 404:
        if path.endswith("/") and request.app.state.methods_at(path[:-1]):
            return _on_slash(request, path[:-1])
        return problem_response("unknown_route", f"there is nothing at {path}; /docs lists the routes")
    if error.status_code == 405:
        # A route knows its own methods only, and another one may have the same address.
        headers = {"Allow": ", ".join(request.app.state.methods_at(path))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        detail = f"{request.method} is not taken at {path}; allowed: {headers['Allow']}"
        return problem_response("unknown_route", detail, status=405, headers=headers)
    code: ErrorCode = "internal_error" if error.status_code >= 500 else "invalid_request"
    return problem_response(code, error.detail, status=error.status_code, headers=error.headers)


def _on_slash(request: Request, path: str) -> Response:
    """Where something is at an address without the slash at its end. What changes nothing is sent there."""
    if request.method in ("GET", "HEAD"):
        query = request.scope["query_string"].decode("latin-1")
        return Response(status_code=308, headers={"Location": quote(path) + (f"?{query}" if query else "")})
    return problem_response("unknown_route", f"there is nothing at {path}/; without the slash at its end there is")


def _on_disconnect(request: Request, error: Exception) -> Response:
    logger.info("%s %s: the client went away before its request was whole", request.method, request.url.path)
    # Nobody reads it.
    return Response(status_code=400)


def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises the error again after this answer, and the server logs its traceback.
    logger.error("%s %s failed with %s", request.method, request.url.path, type(error).__name__)
    return problem_response("internal_error", "the service failed unexpectedly; its log says why")


Refusal = ExemplarMemoryError | RequestValidationError | HTTPException
_ANSWERS: Final[Mapping[type[Exception], Callable[[Request, Exception], Response]]] = {
    ExemplarMemoryError: _on_own_error,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_exception,
}
