"""Is the service there, is it able to work, and what does it speak."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import Request

from memory_format import CODECS
from memory_format.api.answers import Health, ServiceInfo
from memory_format.api.terms import EVICTION_POLICIES, STRATEGIES
from memory_format.wire_schema import WIRE_VERSION
from memory_service.http.access import needs
from memory_service.http.admission import Admission
from memory_service.http.guard import is_loopback
from memory_service.http.openapi import refusals
from memory_service.http.routes.common import Router, StoreDep
from memory_service.store.index.migrations import HEAD
from memory_service.store.segments.layout import FORMAT_VERSION

router = Router(tags=["service"])


def service_version() -> str:
    try:
        return version("exemplar-memory")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"


@router.get("/healthz", openapi_extra=needs(None))
async def healthz() -> Health:
    """The process answers; also while all its worker threads are busy."""
    return Health()


@router.get("/readyz", openapi_extra=needs(None) | refusals())
async def readyz(request: Request, store: StoreDep) -> Health:
    """A push would find what it needs: a file can be made, written and synced, and the disk has room."""
    admission: Admission = request.app.state.admission
    await admission.checks.run_once("ready", store.check_ready)
    return Health()


@router.get("/v1", openapi_extra=needs("read"))
async def info(request: Request) -> ServiceInfo:
    """Versions and what is on offer."""
    client = request.client
    is_near = client is None or is_loopback(client.host)
    return ServiceInfo(
        service="exemplar-memory",
        version=service_version(),
        wire_version=WIRE_VERSION,
        segment_format=FORMAT_VERSION,
        schema_version=HEAD,
        codecs=tuple(codec.codec_id for codec in CODECS),
        eviction=EVICTION_POLICIES,
        strategies=STRATEGIES,
        local=request.app.state.local if is_near else None,
    )
