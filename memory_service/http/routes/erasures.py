"""Receipts of erasures, for who has not got the answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from memory_format.api.receipts import ReceiptList
from memory_format.api.requests import ReceiptQuery
from memory_service.http.access import needs
from memory_service.http.openapi import refusals
from memory_service.http.routes.common import GrantDep, Router, StoreDep

router = Router(prefix="/v1/erasures", tags=["erasures"])


@router.get("", openapi_extra=needs("read") | refusals("invalid_cursor"))
def list_receipts(store: StoreDep, grant: GrantDep, page: Annotated[ReceiptQuery, Query()]) -> ReceiptList:
    """What was erased, the newest first: the receipts of erasures that name no buffer but those that the key is for.
    The newest 1,000 of the store are kept, also of buffers that are gone."""
    return store.erasures.receipts.page(page.limit, page.cursor, buffer=page.buffer, only=grant.sees_all)
