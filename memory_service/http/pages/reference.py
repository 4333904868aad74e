"""``/docs`` and ``/redoc``: the OpenAPI document to read, and its scripts and styles from this machine."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from memory_service.http.access import needs
from memory_service.http.routes.common import Router

router = Router()

_FILES: Final = "/static-offline-docs"
_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def mount(app: FastAPI) -> None:
    """What the two pages load, from the package that has it."""
    app.mount(_FILES, StaticFiles(packages=[("fastapi_offline", "static")]))


@router.get("/docs", include_in_schema=False, openapi_extra=needs(None))
async def docs(request: Request) -> HTMLResponse:
    return _confined(
        get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{request.app.title}: API",
            swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
            swagger_css_url=f"{_FILES}/swagger-ui.css",
            swagger_favicon_url="/favicon.svg",
        )
    )


@router.get("/redoc", include_in_schema=False, openapi_extra=needs(None))
async def redoc(request: Request) -> HTMLResponse:
    return _confined(
        get_redoc_html(
            openapi_url="/openapi.json",
            title=f"{request.app.title}: API",
            redoc_js_url=f"{_FILES}/redoc.standalone.js",
            redoc_favicon_url="/favicon.svg",
            with_google_fonts=False,
        )
    )


def _confined(page: HTMLResponse) -> HTMLResponse:
    """Scripts: the two files, and the page's own, which begins them. Both write styles as they run. Redoc
    would ask another host for a picture (findings/fastapi_offline_redoc_logo.sh)."""
    own = (hashlib.sha256(found.encode()).digest() for found in _SCRIPT.findall(bytes(page.body).decode()))
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in own)
    page.headers["Content-Security-Policy"] = (
        f"default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "worker-src blob:; base-uri 'none'; frame-ancestors 'none'"
    )
    return page
