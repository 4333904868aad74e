"""The application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from memory_service.http import errors
from memory_service.http.access import Access
from memory_service.http.admission import Admission
from memory_service.http.body import BodyLimit
from memory_service.http.guard import Guard
from memory_service.http.metrics import StoreCollector, new_registry
from memory_service.http.openapi import DescribedApp
from memory_service.http.pages import actions, files, reference, sign_in
from memory_service.http.pages import buffers as buffer_pages
from memory_service.http.pages import exemplars as exemplar_pages
from memory_service.http.pages import keys as key_pages
from memory_service.http.pages import runs as run_pages
from memory_service.http.pages.routing import compile_templates, on_http_exception
from memory_service.http.routes import (
    buffers,
    erasures,
    exemplars,
    health,
    keys,
    metrics,
    phases,
    runs,
    sample,
    snapshots,
    transfer,
)
from memory_service.http.routes.common import methods_at
from memory_service.http.telemetry import Telemetry
from memory_service.settings import Settings
from memory_service.store import Store
from memory_service.store.directory import Places
from memory_service.store.keys import KeyFile
from memory_service.store.pure.model import Options
from memory_service.store.shared import SharedStore


class _Application(DescribedApp):
    """The application with what is noted of every request around it."""

    def __init__(self, *, access_log: bool, **options: Any) -> None:
        super().__init__(**options)
        self._access_log = access_log
        self._noting: Telemetry | None = None
        self.state.registry = new_registry()
        self.state.registry.register(StoreCollector(self, self.version))

    @property
    def store(self) -> Store | None:
        """What it serves, while it does."""
        found: Store | None = self.state.store
        return found

    @property
    def in_progress(self) -> int:
        """Requests under way."""
        return 0 if self._noting is None else self._noting.in_progress

    def build_middleware_stack(self) -> ASGIApp:
        # Outside of what makes an answer of an unexpected exception.
        inner = super().build_middleware_stack()
        self._noting = Telemetry(
            inner,
            registry=self.state.registry,
            access_log=self._access_log,
            store_id=lambda: "" if self.store is None else self.store.id,
        )
        return self._noting


def open_store(settings: Settings) -> Store:
    """The store that the settings name. Raises ``StorageError``: it is held by another process, damaged, or made by a
    newer version."""
    limits = {name: getattr(settings, name) for name in Options.__dataclass_fields__.keys() - {"idempotency_seconds"}}
    options = Options(**limits, idempotency_seconds=settings.idempotency_hours * 3600)
    index = None if settings.index is None else settings.index.get_secret_value()
    places = Places(index, settings.segments, settings.cache, settings.cache_bytes, settings.replicas)
    return (SharedStore if settings.replicas else Store)(settings.data, options, open_ports=places)


def create_app(settings: Settings, store: Store | None = None) -> FastAPI:
    """A new application.

    Args:
        settings: see ``memory_service.settings``.
        store: an open store, which stays the caller's to close. Without one, the application opens
            ``settings.data`` when it starts and closes it when it stops.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.admission.listing.begin(compile_templates)
        if store is not None:
            yield
            return
        opened = await run_in_threadpool(open_store, settings)
        app.state.store = opened
        try:
            yield
        finally:
            app.state.store = None
            await run_in_threadpool(opened.close)

    api = (sample, health, metrics, buffers, exemplars, snapshots, transfer, runs, keys, erasures, phases)
    pages = (buffer_pages, exemplar_pages, run_pages, key_pages, actions, files, reference, sign_in)
    routers = [*(module.router for module in (*api, *pages)), exemplar_pages.pictures]
    app = _Application(
        access_log=settings.access_log,
        title="Exemplar Memory",
        summary="A shared, byte-budgeted replay memory for class-incremental learning.",
        version=health.service_version(),
        lifespan=lifespan,
        # To the address that Host names; errors.py answers instead.
        redirect_slashes=False,
        # Theirs load scripts from elsewhere: see pages/reference.py.
        docs_url=None,
        redoc_url=None,
        # The very ones, as nothing is added to them: included, each would be there twice.
        routes=[route for router in routers for route in router.routes],
    )
    app.state.store = store
    app.state.lease_seconds = settings.lease_seconds
    app.state.local = None
    app.state.access = Access(KeyFile(settings.keys or settings.data), settings.key_requests, settings.key_connections)
    app.state.admission = Admission(settings)
    app.add_middleware(BodyLimit, settings=settings)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    # Outermost: who is not let in is asked nothing else.
    app.add_middleware(Guard, bound=settings.host, hosts=settings.allowed_hosts, origins=settings.allowed_origins)
    errors.install(app)
    app.add_exception_handler(HTTPException, on_http_exception)
    reference.mount(app)
    app.state.methods_at = partial(methods_at, app.routes)
    return app
