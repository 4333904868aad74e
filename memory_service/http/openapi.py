"""The OpenAPI document: what FastAPI makes of the routes, and what it does not know of them.

That is every problem that a route can answer: those that :func:`refusals` names for it, and those of any request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from fastapi import FastAPI

from memory_format import ERROR_CODES, ErrorCode
from memory_format.api.terms import PROBLEM_MEDIA_TYPE
from memory_service.http.access import SCHEME, Need, take_need
from memory_service.http.errors import PROBLEMS, problem_document

CODES: Final = "x-problem-codes"

RECORD_CODES: Final[tuple[ErrorCode, ...]] = (
    "invalid_record",
    "mask_mismatch",
    "invalid_payload",
    "payload_mismatch",
    "unknown_codec",
    "codec_unavailable",
)
"""Of a record that is taken in."""

MISFITS: Final[tuple[ErrorCode, ...]] = ("patch_size_mismatch", "vocabulary_mismatch")
"""Of records that do not go with those that a buffer has."""

NO_ROOM: Final[tuple[ErrorCode, ...]] = (
    "budget_exceeded",
    "disk_limit_exceeded",
    "quota_exceeded",
    "learner_quota_exceeded",
)
"""Of what takes room that there is not."""

KEY_CODES: Final[tuple[ErrorCode, ...]] = (
    "unauthenticated",
    "forbidden",
    "rate_exceeded",
    "connections_exceeded",
    "storage_failed",
)
"""Of what takes a key, whose file may be one that cannot be read."""

_STORE: Final[tuple[ErrorCode, ...]] = ("storage_failed", "corrupt_record", "replica_behind", "store_locked")
_ANY: Final[tuple[tuple[ErrorCode, int], ...]] = (
    ("invalid_request", 400),
    ("untrusted_host", 403),
    ("untrusted_origin", 403),
    ("invalid_request", 408),
    ("invalid_request", 422),
    ("too_busy", 429),
    ("invalid_request", 431),
    ("internal_error", 500),
)
_WITH_BODY: Final[tuple[tuple[ErrorCode, int], ...]] = (("batch_too_large", 413), ("invalid_request", 415))

_PROBLEM: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "What was wrong, as RFC 9457 has it. Some codes have members of their own: see docs/service.md.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "minLength": 1},
        "code": {"type": "string", "enum": list(ERROR_CODES), "description": "Keeps its meaning for ever."},
    },
}
_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_HEADERS: Final[dict[int, Any]] = {
    401: {"WWW-Authenticate": {"description": "How to say who asks.", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_SCHEME: Final = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "em_<id>_<secret>",
    "description": "A key of `memory-service keys make`. It is asked for once the store has one; until then nobody is "
    "asked.",
}


def refusals(*codes: ErrorCode, store: bool = True) -> dict[str, Any]:
    """For a route's ``openapi_extra``: what it may answer beside the problems of any request, and those of the store if
    it reads or writes that."""
    return {CODES: [*codes, *(_STORE if store else ())]}


class DescribedApp(FastAPI):
    """An application whose OpenAPI document is whole."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            for path in document["paths"].values():
                for operation in path.values():
                    _complete(operation)
            components = document.setdefault("components", {})
            components["securitySchemes"] = {SCHEME: _SCHEME}
            schemas = components.setdefault("schemas", {})
            schemas["Problem"] = _PROBLEM
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            _close(document)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _close(schema: Any) -> None:
    """Where names have a pattern, say that there are no others: pydantic 2.13 says which fit, and refuses the rest."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            _close(part)


def _complete(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        # Null cannot be written in an address.
        options = parameter["schema"].pop("anyOf", None)
        if options is not None:
            parameter["schema"] |= next(option for option in options if option.get("type") != "null")
    answers = [*_ANY, *_secure(operation, take_need(operation))]
    answers += _WITH_BODY if "requestBody" in operation else ()
    answers += [(code, PROBLEMS[code][0]) for code in operation.get(CODES, ())]
    by_status: dict[int, list[ErrorCode]] = defaultdict(list)
    for code, status in answers:
        if code not in by_status[status]:
            by_status[status].append(code)
    operation["responses"].pop("422", None)
    for status, codes in sorted(by_status.items()):
        operation["responses"][str(status)] = _response(status, codes)
    operation[CODES] = sorted({code for code, _ in answers})


def _secure(operation: dict[str, Any], need: Need) -> list[tuple[ErrorCode, int]]:
    """Say who may call it; returns what the others are answered."""
    if need.role is None:
        operation["security"] = []
        return []
    operation["security"] = [{SCHEME: [need.role]}]
    buffers = "all buffers" if need.all_buffers else "the buffer"
    says = f"Takes a key with the role `{need.role}`, or a greater one, for {buffers}."
    if need.own:
        says += " If another key made the buffer, it takes `admin`."
    operation["description"] = f"{operation.get('description', '')}\n\n{says}".strip()
    return [(code, PROBLEMS[code][0]) for code in KEY_CODES]


def _response(status: int, codes: Iterable[ErrorCode]) -> dict[str, Any]:
    examples = {code: {"value": problem_document(code, PROBLEMS[code][1], status=status)} for code in codes}
    schema = {
        "allOf": [{"$ref": "#/components/schemas/Problem"}],
        "properties": {"status": {"const": status}, "code": {"enum": list(examples)}},
    }
    response = {
        "description": "; ".join(f"`{code}`: {PROBLEMS[code][1]}" for code in examples),
        "content": {PROBLEM_MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }
    return {**response, "headers": _HEADERS[status]} if status in _HEADERS else response
