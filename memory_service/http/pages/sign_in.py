"""Signing in with a key, where the store has any, and out again."""

from __future__ import annotations

import re
from typing import Final

from fastapi import Request, Response
from starlette.responses import RedirectResponse

from memory_format import UnauthenticatedError
from memory_service.http.access import Access, needs
from memory_service.http.pages.forms import FormDep
from memory_service.http.pages.routing import PageRoute, SignIn, html, sign_in_page
from memory_service.http.routes.common import Router
from memory_service.http.sessions import clear_cookie, session_of, set_cookie

router = Router()

_OWN: Final = re.compile(r"/([A-Za-z0-9._~?&=%+-][/A-Za-z0-9._~?&=%+-]*)?")
"""Addresses of this service: none of another that begins with two slashes."""


@router.get("/sign-in", include_in_schema=False, openapi_extra=needs(None), response_model=None)
async def form(request: Request) -> Response:
    return html(request, "sign_in", SignIn("/"))


async def sign_in(request: Request, fields: FormDep) -> Response:
    following = _own(fields.get("next", "/"))
    access: Access = request.app.state.access
    try:
        session = access.sign_in(fields.get("key", "").strip(), request.scope)
    except UnauthenticatedError as error:
        return sign_in_page(request, error, following)
    # Not 307: what follows is asked for, and no key goes with it.
    response = RedirectResponse(following, 303)
    if session is not None:
        set_cookie(response, session, secure=request.url.scheme == "https")
    return response


# Too many tries are answered with a page, too.
router.add_api_route(
    "/sign-in",
    sign_in,
    methods=["POST"],
    include_in_schema=False,
    openapi_extra=needs(None),
    response_model=None,
    route_class_override=PageRoute,
)


@router.post("/sign-out", include_in_schema=False, openapi_extra=needs(None), response_model=None)
async def sign_out(request: Request) -> Response:
    access: Access = request.app.state.access
    session = session_of(request.scope["headers"])
    if session is not None:
        access.sessions.end(session)
    response = RedirectResponse("/", 303)
    clear_cookie(response, secure=request.url.scheme == "https")
    return response


def _own(address: str) -> str:
    """An address of this service, whatever a form says."""
    return address if _OWN.fullmatch(address) else "/"
