"""How a page is asked for and answered: as HTML, under the same address with ``.json`` behind it as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, Final, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from memory_format import ExemplarMemoryError, UnauthenticatedError
from memory_format.api.terms import JSON_MEDIA_TYPE, Role
from memory_service.http.access import GRANT, Access, Grant, Need, needs
from memory_service.http.admission import Admission
from memory_service.http.errors import answer_to
from memory_service.http.media import prefers
from memory_service.http.pages import words
from memory_service.http.routes.common import Router, StrictRoute
from memory_service.http.sessions import session_of

HTML: Final = "text/html"
POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No page needs a script, or anything of another site."""
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "private, no-cache",
    # Not no-referrer: a form would then be sent with the Origin "null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("memory_service.http.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(words.FILTERS)


def compile_templates() -> None:
    """Before somebody asks for the first page: its template would be compiled then."""
    for name in _ENVIRONMENT.list_templates(["j2"]):
        _ENVIRONMENT.get_template(name)


View = TypeVar("View", bound=Callable[..., Any])


def html(
    request: Request, template: str, view: Any, *, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})
) -> Response:
    """A page.

    Args:
        template: its name, without ending.
        view: a dataclass, which the template has as ``page``.
    """
    query = request.url.query
    twin = f"{request.url.path}.json" + (f"?{query}" if query else "")
    grant: Grant | None = request.scope.get(GRANT)
    known = {
        "may": lambda role: grant is not None and grant.may(role),
        "keeps_keys": grant is not None and grant.key is not None and grant.may("admin") and grant.key.reaches_all,
        "base_url": request.base_url,
        "twin": twin,
        "signed_in": session_of(request.scope["headers"]) is not None,
    }
    text = _ENVIRONMENT.get_template(f"{template}.html.j2").render(page=view, **known)
    return Response(text, status, {**HEADERS, **headers}, media_type=HTML)


@dataclass(frozen=True)
class SignIn:
    """The form to sign in by."""

    next: str
    """The address to go on to."""
    problem: str | None = None
    """Why the last try did not do."""


def sign_in_page(request: Request, error: UnauthenticatedError, next: str | None = None) -> Response:
    """The form, in place of what asks for a key. ``next``: where to go on, default there."""
    query = request.url.query
    here = request.url.path + (f"?{query}" if query else "")
    tried = next is not None or session_of(request.scope["headers"]) is not None
    # How programs show a key is of no use here.
    problem = error.message.partition(": send ")[0] if tried else None
    headers = {"WWW-Authenticate": answer_to(request, error).headers["WWW-Authenticate"]}
    return html(request, "sign_in", SignIn(here if next is None else next, problem), status=401, headers=headers)


class PageRoute(StrictRoute):
    """A route whose refusals are pages, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                return await handle(request)
            except (ExemplarMemoryError, RequestValidationError, HTTPException) as error:
                if not prefers(request.headers.get("accept", ""), HTML):
                    raise
                if isinstance(error, UnauthenticatedError):
                    return sign_in_page(request, error)
                return _problem_page(request, answer_to(request, error))

        return shown


def on_http_exception(request: Request, error: Exception) -> Response:
    """The answer to what no route takes: for people who mistype an address, a page with a way on."""
    assert isinstance(error, HTTPException)
    answer = answer_to(request, error)
    is_mistyped = answer.status_code == 404 and not request.url.path.startswith("/v1/")
    return (
        _problem_page(request, answer) if is_mistyped and prefers(request.headers.get("accept", ""), HTML) else answer
    )


def _problem_page(request: Request, answer: Response) -> Response:
    problem = json.loads(bytes(answer.body))
    # Such as Retry-After.
    others = {key: value for key, value in answer.headers.items() if not key.startswith("content-")}
    return html(request, "problem", problem, status=answer.status_code, headers=others)


class Pages(Router):
    """Routes of pages. They are not in the OpenAPI document: programs have ``/v1``."""

    def page(
        self,
        path: str,
        template: str,
        *,
        for_programs: Callable[[], dict[str, Any]] | None = None,
        role: Role = "read",
        all_buffers: bool = False,
    ) -> Callable[[View], View]:
        """Around a function of a request, and of whatever else FastAPI passes, that gives a page's view, a dataclass.

        It runs in a thread of low priority. The page answers at ``path``, its JSON at ``path.json``.

        Args:
            for_programs: what is at ``path`` for those who do not ask for HTML, of whom no key is asked.
            role, all_buffers: as for :func:`~memory_service.http.access.needs`.
        """

        vary = {"Vary": "Accept"} if for_programs else {}

        def both(view_of: View) -> View:
            @wraps(view_of)
            async def page(request: Request, **given: Any) -> Response:
                if for_programs:
                    if not prefers(request.headers.get("accept", ""), HTML):
                        return _json(for_programs(), vary)
                    access: Access = request.app.state.access
                    access.admit(request.scope, Need(role, all_buffers), None)
                return await _run(request, lambda: html(request, template, view_of(request, **given), headers=vary))

            @wraps(view_of)
            async def twin(request: Request, **given: Any) -> Response:
                return await _run(request, lambda: _json(view_of(request, **given)))

            add = partial(self.add_api_route, include_in_schema=False, response_model=None)
            # First: a parameter at the end of the path would take the ending, too.
            needed = needs(role, all_buffers=all_buffers)
            add(f"{path}.json", twin, openapi_extra=needed)
            add(path, page, route_class_override=PageRoute, openapi_extra=needs(None) if for_programs else needed)
            return view_of

        return both

    def action(self, path: str, role: Role, *, all_buffers: bool = False) -> Callable[[View], View]:
        """Around a function that does what a form asks for and gives the address of the page to see next."""

        def register(act: View) -> View:
            @wraps(act)
            def done(**given: Any) -> Response:
                # Not 307: the next page is asked for, and nothing sent again.
                return RedirectResponse(act(**given), 303)

            self.add_api_route(
                path,
                done,
                methods=["POST"],
                include_in_schema=False,
                openapi_extra=needs(role, all_buffers=all_buffers),
                response_model=None,
                route_class_override=PageRoute,
            )
            return act

        return register


async def _run(request: Request, make: Callable[[], Response]) -> Response:
    admission: Admission = request.app.state.admission
    return await admission.listing.run(make)


def _json(view: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_adapter_of[type(view)].dump_json(view), headers=headers, media_type=JSON_MEDIA_TYPE)


class _Adapters(dict[type[Any], TypeAdapter[Any]]):
    def __missing__(self, kind: type[Any]) -> TypeAdapter[Any]:
        self[kind] = TypeAdapter(kind)
        return self[kind]


_adapter_of: Final = _Adapters()
