"""Keys: list, make, revoke. By a key that may do everything: the first one is made on the command line."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Depends, Path, Request

from memory_format import ForbiddenError
from memory_format.api.keys import KeyInfo, KeyList, NewKey
from memory_format.api.requests import KeyRequest
from memory_format.api.terms import KEY_ID_PATTERN
from memory_service.http.access import Access, Grant, needs
from memory_service.http.openapi import refusals
from memory_service.http.routes.common import JSON_BODY, GrantDep, Router
from memory_service.store.keys import DAY, PREFIX, Key

router = Router(prefix="/v1/keys", tags=["keys"])

KeyId = Annotated[str, Path(pattern=f"^{KEY_ID_PATTERN.pattern}$", description="Of a key: `em_` and 8 characters.")]
_ADMIN = needs("admin", all_buffers=True)


async def get_access(request: Request) -> Access:
    """Who is let in."""
    access: Access = request.app.state.access
    return access


AccessDep = Annotated[Access, Depends(get_access)]


@router.get("", openapi_extra=_ADMIN | refusals())
def list_keys(access: AccessDep) -> KeyList:
    """All keys, without what is secret of them."""
    return KeyList(tuple(_info(key, access) for key in (access.keys.current() or {}).values()))


@router.post("", status_code=201, dependencies=[JSON_BODY], openapi_extra=_ADMIN | refusals())
def make_key(wanted: KeyRequest, access: AccessDep, grant: GrantDep) -> NewKey:
    """Make a key; the answer alone ever has it. Once the store has one, every request needs one: so the first is made
    by who can reach the store's directory, with `memory-service keys make`. A key that is for one learner, or that ends
    some day, makes none that is for others, or that is good for longer."""
    now = time.time()
    expires_at = None if wanted.days is None else now + wanted.days * DAY
    _expect_within(_expect_key(grant), wanted.learner_id, expires_at)
    key, shown = access.keys.make(
        wanted.role,
        now,
        buffers=wanted.buffers,
        learner_id=wanted.learner_id,
        expires_at=expires_at,
        note=wanted.note,
        trusted=wanted.trusted,
    )
    return NewKey(**vars(_info(key, access)), key=shown)


@router.delete("/{key_id}", openapi_extra=_ADMIN | refusals("unknown_key"))
def revoke_key(key_id: KeyId, access: AccessDep, grant: GrantDep) -> KeyInfo:
    """Let a key in no more, from the next request on. It stays in the list. The key that asks stays good: another one
    revokes it, or the command line."""
    own = _expect_key(grant)
    id_ = key_id.removeprefix(PREFIX)
    if own.id == id_:
        raise ForbiddenError(f"{key_id} is the key that asks: make another one, and revoke it with that")
    return _info(access.keys.revoke(id_, time.time()), access)


def _expect_key(grant: Grant) -> Key:
    if grant.key is None:
        raise ForbiddenError(
            "the store has no key yet: whoever runs the service makes the first one, with `memory-service keys make "
            "--role admin`"
        )
    return grant.key


def _expect_within(own: Key, learner_id: str | None, expires_at: float | None) -> None:
    """Raises ``ForbiddenError``: the new key would do what the one that makes it may not."""
    if own.learner_id not in (None, learner_id):
        raise ForbiddenError(
            f"the key em_{own.id} is for the learner {own.learner_id!r}, and makes keys for that one alone"
        )
    if own.expires_at is not None and (expires_at is None or expires_at > own.expires_at):
        left = max(0.0, own.expires_at - time.time()) / DAY
        raise ForbiddenError(
            f"the key em_{own.id} is good for {left:.1f} more days, and makes none that is good for longer"
        )


def _info(key: Key, access: Access) -> KeyInfo:
    return KeyInfo(
        key_id=PREFIX + key.id,
        role=key.role,
        buffers=key.buffers,
        learner_id=key.learner_id,
        trusted=key.trusted,
        note=key.note,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=access.last_used.get(key.id),
    )
