"""Forms that pages send. What another site's page sends is refused before (``memory_service.http.guard``)."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from memory_service.http.routes.common import expect_media_type

_FORM: Final = "application/x-www-form-urlencoded"


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises ``HTTPException``: the body is none."""
    expect_media_type(request, "a form", _FORM)
    try:
        return dict(parse_qsl((await request.body()).decode("ascii"), keep_blank_values=True, max_num_fields=8))
    except ValueError:
        raise HTTPException(400, "the body is no form") from None


FormDep = Annotated[dict[str, str], Depends(read_form)]
