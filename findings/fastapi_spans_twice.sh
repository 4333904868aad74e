#!/usr/bin/env bash
# fastapi 0.165.0: wrapped in OpenTelemetry's ASGI middleware as its documentation shows, a request is two server spans.
#
# What: OpenTelemetryMiddleware(app) around a FastAPI application, and one request.
# Guess: one server span. FastAPI has none of its own; and where it had, it would see that it is wrapped.
# Seen: two, one inside the other, and the request is counted by two histograms. Since this version FastAPI makes spans,
#   metrics and logs by itself as soon as any code of the process has set a global provider, query strings included. It
#   stands back only where the middleware is in its own stack (add_middleware, FastAPIInstrumentor), not around it.
# For this project: the service keeps its own figures (telemetry.py of its HTTP room) and adds no OpenTelemetry
#   middleware; docs/howto/monitor.md says what a provider in the process brings, and that nothing secret belongs into an
#   address. Its log leaves query strings out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    fastapi==0.165.0 starlette==1.10.0 httpx==0.28.1 opentelemetry-sdk==1.45.2 opentelemetry-api==1.45.2 \
    opentelemetry-instrumentation-asgi==0.66b2

"$folder/venv/bin/python" -I - <<'PYTHON'
import asyncio

import fastapi
import httpx
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)


def application():
    app = FastAPI()

    @app.get("/items/{number}")
    def item(number: int) -> int:
        return number

    return app


async def ask(app):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://example.org") as client:
        assert (await client.get("/items/1?word=hello")).status_code == 200


def server_spans(app):
    kept.clear()
    asyncio.run(ask(app))
    return [span for span in kept.get_finished_spans() if span.kind is SpanKind.SERVER]


print(f"fastapi {fastapi.__version__}")
print("expected: one server span each time")
plain = server_spans(application())
print("seen, nothing added:", [span.name for span in plain], plain[0].attributes["url.query"])
inside = application()
inside.add_middleware(OpenTelemetryMiddleware)
within = server_spans(inside)
print("seen, in its stack: ", [span.name for span in within])
around = server_spans(OpenTelemetryMiddleware(application()))
print("seen, around it:    ", [span.name for span in around])
print("source:   fastapi/applications.py, FastAPI.__call__: looks for the middleware in its own stack (_legacy_otel)")
assert (len(plain), len(within), len(around)) == (1, 1, 2), "this has changed"
assert plain[0].attributes["url.query"] == "word=hello", "this has changed"
print("as described")
PYTHON
