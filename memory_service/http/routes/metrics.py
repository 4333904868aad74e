"""Figures for Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
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
    """What writes the figures in the format that is liked best, and its media type; plain text where none is known.

    By itself prometheus_client 0.26.0 passes over ``q``, reads quotation marks as part of a version, and makes a
    ``TypeError`` of one that is no number (findings/prometheus_accept.sh).
    """
    kinds = [kind.strip() for kind in accept.lower().replace('"', "").split(",")]
    for kind in sorted(filter(_quality, kinds), key=_quality, reverse=True):
        with suppress(TypeError, ValueError):
            encode, media_type = choose_encoder(kind)
            if fnmatchcase(media_type.partition(";")[0], kind.partition(";")[0].strip()):
                return encode, media_type
    return generate_latest, CONTENT_TYPE_PLAIN_0_0_4


def _quality(kind: str) -> float:
    """The weight ``q`` of a media type in ``Accept`` (RFC 9110, section 12.4.2): 0 is not acceptable."""
    found = re.search(r";\s*q=([01](?:\.\d{0,3})?)\s*(?:;|$)", kind)
    return float(found[1]) if found else 1.0
