"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.registry import Collector

from memory_service.http.access import needs
from memory_service.http.admission import Admission
from memory_service.http.openapi import refusals
from memory_service.http.routes.common import Router, headers_only

Encoder = Callable[[Collector], bytes]

router = Router(tags=["service"])

_TEXT: Final[dict[str, Any]] = {"schema": {"type": "string"}}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_PLAIN_0_0_4: _TEXT, CONTENT_TYPE_LATEST: _TEXT}}},
    openapi_extra=needs("read", all_buffers=True) | refusals(store=False),
)
async def metrics(request: Request) -> Response:
    """Figures of the service and of each buffer, as Prometheus or OpenMetrics reads them. Waits for no push."""
    encode, media_type = _encoder(request.headers.get("accept", ""))
    if request.method == "HEAD":
        return headers_only(media_type, {})
    admission: Admission = request.app.state.admission
    text = await admission.figures.run_once(media_type, lambda: encode(request.app.state.registry))
    return Response(text, media_type=media_type)


def _encoder(accept: str) -> tuple[Encoder, str]:
    """What writes the figures in the format that is asked for, and its media type."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is no number, of which prometheus_client 0.26.0 makes a TypeError.
        return generate_latest, CONTENT_TYPE_PLAIN_0_0_4
