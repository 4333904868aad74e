"""What several routes share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, TypeVar, get_origin

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Receive, Scope, Send

from memory_format import MEDIA_TYPE, NotFoundError, text
from memory_format.api.answers import DrawnIds
from memory_format.api.fields import Name
from memory_format.api.terms import CURSOR_HEADER, JSON_MEDIA_TYPE, VERSION_HEADER
from memory_service.http.access import GRANT, Access, Grant, need_of
from memory_service.http.media import media_type
from memory_service.store import Buffer, Store
from memory_service.store.shared import SharedStore

_VERSIONED: Final[dict[str, Any]] = {
    VERSION_HEADER: {"description": "Of the buffer.", "required": True, "schema": {"type": "integer", "minimum": 0}}
}
_CURSOR: Final[dict[str, Any]] = {
    CURSOR_HEADER: {"description": "Leads to the next page; absent at the end.", "schema": {"type": "string"}}
}

# For the OpenAPI document.
ARROW: Final[dict[str, Any]] = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
BATCH: Final[dict[str, Any]] = {**ARROW, "headers": _VERSIONED}
TAGGED: Final[dict[str, Any]] = {
    "headers": {
        "ETag": {"description": "The record's revision.", "required": True, "schema": {"type": "string"}},
    }
}
DRAWN: Final[dict[str, Any]] = {
    "content": {
        **ARROW["content"],
        JSON_MEDIA_TYPE: {"schema": TypeAdapter(DrawnIds).json_schema(mode="serialization")},
    },
    "headers": _VERSIONED,
}
PAGE: Final[dict[str, Any]] = {**ARROW, "headers": {**_VERSIONED, **_CURSOR}}


# Coroutines: what is none is run in a thread of its own, which takes longer than the look-up.
async def get_store(request: Request) -> Store:
    store = request.app.state.store
    assert isinstance(store, Store), "the application's lifespan has not begun"
    return store


StoreDep = Annotated[Store, Depends(get_store)]


BufferName = Annotated[Name, Path(description="Of a buffer.")]


async def get_buffer(name: BufferName, store: StoreDep) -> Buffer:
    """The buffer in the path; unknown names become ``unknown_buffer``."""
    return await run_in_threadpool(store.buffer, name) if store.is_shared else store.buffer(name)


BufferDep = Annotated[Buffer, Depends(get_buffer)]


async def get_known_buffer(name: BufferName, store: StoreDep) -> Buffer:
    """The same, for :func:`in_known`: a replica does not ask whether it is there still where it knew of it before."""
    known = store.known(name) if isinstance(store, SharedStore) else None
    return known or await get_buffer(name, store)


def in_known(store: Store, buffer: Buffer, change: Callable[[Buffer], Answer]) -> Answer:
    """What a change gives, which looks at a buffer of :func:`get_known_buffer` anew once it holds it."""
    try:
        return change(buffer)
    except NotFoundError:
        if not store.is_shared:
            raise
        # Others have deleted it, and may have made another one of its name.
        return change(store.buffer(buffer.name))


async def get_grant(request: Request) -> Grant:
    """What the request may do: see :class:`StrictRoute`."""
    grant = request.scope[GRANT]
    assert isinstance(grant, Grant)
    return grant


GrantDep = Annotated[Grant, Depends(get_grant)]


Answer = TypeVar("Answer")


class StrictRequest(Request):
    """A request whose JSON is read as strictly as :func:`memory_format.text.read_json` does."""

    async def json(self) -> Any:
        """The body's JSON. Raises ``HTTPException``: 400: it is not such JSON."""
        try:
            return text.read_json(await self.body())
        except ValueError as error:
            raise HTTPException(400, f"the body cannot be read as JSON: {error}") from None


class StrictRoute(APIRoute):
    """A route that passes nothing over: no key that is for less than it needs, no parameter that it does not know or
    that comes twice, no lax JSON. Where GET is answered HEAD is, by the same function: what costs much asks for the
    method."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        # Not one of its methods, or one in the OpenAPI document; and a route for itself would be as large.
        return super().matches({**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD" and "GET" in (self.methods or ()):
            await self.app(scope, receive, send)
        else:
            await super().handle(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = dict(_parameters(self.dependant))
        need = need_of(self.openapi_extra)

        async def strictly(request: Request) -> Response:
            access: Access = request.app.state.access
            access.admit(request.scope, need, request.path_params.get("name"))
            if request.scope["query_string"]:
                _check_query(request, known)
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


class Router(APIRouter):
    """Strict routes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=StrictRoute, **options)


def methods_at(routes: Iterable[BaseRoute], path: str) -> list[str]:
    """What an address takes; nothing where there is none. What is mounted are files."""
    found = {
        method
        for route in routes
        if isinstance(route, Route | Mount) and route.path_regex.match(path)
        for method in (("GET",) if isinstance(route, Mount) else route.methods or ())
    }
    return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set())) if found else []


def headers_only(media_type: str, headers: Mapping[str, str]) -> Response:
    """The answer to HEAD where GET's body was not made; its length is told if it is known."""
    response = Response(media_type=media_type, headers=dict(headers))
    if "Content-Length" not in headers:
        del response.headers["content-length"]
    return response


def _parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Names of a route's query parameters, and whether they may be given several times."""
    for field in dependant.query_params:
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            for name, member in model.model_fields.items():
                yield member.alias or name, get_origin(member.annotation) is list
        else:
            yield field.alias, False
    for needed in dependant.dependencies:
        yield from _parameters(needed)


def _check_query(request: Request, known: Mapping[str, bool]) -> None:
    """Refuse parameters that would be passed over. Raises ``RequestValidationError``: a parameter is none of the
    route's, or comes twice where one is taken."""
    problems = []
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            said = f"it is no parameter here; known: {', '.join(known)}" if known else "there are no parameters here"
        elif count > 1 and not known[name]:
            said = f"it is given {count} times, and one value is taken"
        else:
            continue
        problems.append({"type": "value_error", "loc": ("query", name), "msg": said})
    if problems:
        raise RequestValidationError(problems)


Body = TypeVar("Body", bound=BaseModel)


def expect_media_type(request: Request, what: str, *wanted: str) -> None:
    """Refuse a body of another type (415).

    It is also what keeps pages of other sites from sending one: a browser asks the service first, except for forms'.
    """
    given = request.headers.getlist("content-type")
    if len(given) != 1 or media_type(given[0]) not in wanted:
        words = f"{what} is {' or '.join(wanted)}, not {', '.join(given) or 'without a Content-Type'}"
        raise HTTPException(415, words)


async def _expect_json(request: Request) -> None:
    expect_media_type(request, "the body here", JSON_MEDIA_TYPE)


JSON_BODY: Final = Depends(_expect_json)
"""For routes whose body FastAPI reads."""


def json_operation(model: type[BaseModel], *path: str) -> dict[str, Any]:
    """What the OpenAPI document says of a route that reads its request itself: its body and its path's parameters."""
    named = TypeAdapter(Name).json_schema()
    parameters = [{"name": name, "in": "path", "required": True, "schema": named} for name in path]
    content = {JSON_MEDIA_TYPE: {"schema": model.model_json_schema()}}
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}


async def read_json(request: Request, model: type[Body]) -> Body:
    """A request's body, checked: for routes that answer in the time that FastAPI takes to look at their parameters.

    Raises:
        HTTPException: the body is of another type, or no JSON.
        RequestValidationError: as FastAPI's own.
    """
    await _expect_json(request)
    return checked(model, await request.json(), "body")


def checked(model: type[Body], given: Any, where: str, *, strict: bool | None = None) -> Body:
    """What was sent, as a model. Raises ``RequestValidationError``: as FastAPI's own, of that part of the request."""
    try:
        return model.model_validate(given, strict=strict)
    except ValidationError as error:
        problems = error.errors(include_context=False, include_url=False)
        raise RequestValidationError(
            [{**problem, "loc": (where, *problem["loc"]), "model": model} for problem in problems]
        ) from error


def arrow_response(data: memoryview, next_cursor: str | None, version: int) -> Response:
    headers = {VERSION_HEADER: str(version)}
    if next_cursor is not None:
        headers[CURSOR_HEADER] = next_cursor
    return Response(data, media_type=MEDIA_TYPE, headers=headers)
