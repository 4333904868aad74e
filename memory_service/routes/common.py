"""What several routes share."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from memory_format import MEDIA_TYPE
from memory_service.media import JSON_MEDIA_TYPE, media_type
from memory_service.store import Buffer, Store

VERSION_HEADER: Final = "Exemplar-Memory-Version"
CURSOR_HEADER: Final = "Exemplar-Memory-Next-Cursor"

ARROW_ANSWER: Final[dict[str, Any]] = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
"""For the OpenAPI document."""


# Coroutines: what is none is run in a thread of its own, which takes longer than the look-up.
async def get_store(request: Request) -> Store:
    store = request.app.state.store
    assert isinstance(store, Store), "the application's lifespan has not begun"
    return store


StoreDep = Annotated[Store, Depends(get_store)]


async def get_buffer(name: str, store: StoreDep) -> Buffer:
    """The buffer in the path; unknown names become ``unknown_buffer``."""
    return store.buffer(name)


BufferDep = Annotated[Buffer, Depends(get_buffer)]


Body = TypeVar("Body", bound=BaseModel)


def expect_media_type(request: Request, wanted: str, what: str) -> None:
    """Refuse a body of another type (415).

    It is also what keeps pages of other sites from sending one: a browser asks the service first, except for forms'.
    """
    given = request.headers.getlist("content-type")
    if len(given) != 1 or media_type(given[0]) != wanted:
        raise HTTPException(415, f"{what} is {wanted}, not {', '.join(given) or 'without a Content-Type'}")


async def _expect_json(request: Request) -> None:
    expect_media_type(request, JSON_MEDIA_TYPE, "the body here")


JSON_BODY: Final = Depends(_expect_json)
"""For routes whose body FastAPI reads."""


def json_operation(model: type[BaseModel], *path: str) -> dict[str, Any]:
    """What the OpenAPI document says of a route that reads its request itself: its body and its path's parameters."""
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}


async def read_json(request: Request, model: type[Body]) -> Body:
    """A request's body, checked: for routes that answer in the time that FastAPI takes to look at their parameters.

    Raises:
        RequestValidationError: as FastAPI's own.
        HTTPException: the body is of another type.
    """
    await _expect_json(request)
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        problems = error.errors(include_context=False, include_url=False)
        raise RequestValidationError([{**problem, "loc": ("body", *problem["loc"])} for problem in problems]) from error


def arrow_headers(next_cursor: str | None, version: int) -> dict[str, str]:
    headers = {VERSION_HEADER: str(version)}
    if next_cursor is not None:
        headers[CURSOR_HEADER] = next_cursor
    return headers


def arrow_response(data: memoryview, next_cursor: str | None, version: int) -> Response:
    return Response(data, media_type=MEDIA_TYPE, headers=arrow_headers(next_cursor, version))
