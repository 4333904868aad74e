"""The keys of the store: list, make and revoke them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from memory_format.api.keys import KeyInfo
from memory_format.api.requests import KeyRequest
from memory_service.http.access import needs
from memory_service.http.pages.forms import FormDep
from memory_service.http.pages.routing import PageRoute, Pages, html
from memory_service.http.routes import keys as api
from memory_service.http.routes.common import GrantDep, checked
from memory_service.store.keys import PREFIX

router = Pages()


@dataclass(frozen=True)
class KeyLine:
    """A key in the list."""

    info: KeyInfo
    state: str
    """In a word."""


@dataclass(frozen=True)
class KeysPage:
    """All keys, those that let somebody in first, and the newest of them first."""

    keys: tuple[KeyLine, ...]
    own: str | None
    """Id of the key that looks."""


@router.page("/keys", "keys", all_buffers=True, role="admin")
def keys(request: Request, access: api.AccessDep, grant: GrantDep) -> KeysPage:
    now = time.time()
    lines = [KeyLine(info, _state(info, now)) for info in api.list_keys(access).keys]
    lines.sort(key=lambda line: (line.state != "good", -line.info.created_at))
    return KeysPage(tuple(lines), None if grant.key_id is None else f"{PREFIX}{grant.key_id}")


def _state(info: KeyInfo, now: float) -> str:
    if info.revoked_at is not None:
        return "revoked"
    return "good" if info.expires_at is None or now < info.expires_at else "expired"


def make_key(request: Request, form: FormDep, access: api.AccessDep, grant: GrantDep) -> Response:
    made = api.make_key(_wanted(form), access, grant)
    # Shown in the answer itself, as an address or a session would keep it; and kept by no cache.
    return html(request, "new_key", made, status=201, headers={"Cache-Control": "no-store"})


router.add_api_route(
    "/keys",
    make_key,
    methods=["POST"],
    include_in_schema=False,
    openapi_extra=needs("admin", all_buffers=True),
    response_model=None,
    route_class_override=PageRoute,
)


@router.action("/keys/{key_id}/revoke", "admin", all_buffers=True)
def revoke_key(key_id: api.KeyId, access: api.AccessDep, grant: GrantDep, form: FormDep) -> str:
    api.revoke_key(key_id, access, grant)
    return "/keys"


def _wanted(form: dict[str, str]) -> KeyRequest:
    """What a form asks for; fields that are left empty do not count. Raises ``RequestValidationError``."""
    given: dict[str, Any] = {name: value.strip() for name, value in form.items() if value.strip()}
    if "buffers" in given:
        given["buffers"] = given["buffers"].split()
    if "trusted" in given:
        given["trusted"] = given["trusted"] == "on"
    return checked(KeyRequest, given, "form", strict=False)
