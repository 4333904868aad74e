#!/usr/bin/env bash
# prometheus_client 0.26.0 gives the format that a scraper names first, even with q=0, and trips over quotation marks.
#
# What: choose_encoder(), which the library's own WSGI and ASGI applications use, with Accept headers as RFC 9110 has them.
# Guess: q is heeded, at least q=0 ("not acceptable"); version="1.0.0" is the same as version=1.0.0; of a version that
#   does not exist comes the newest that the library can write, under its own name.
# Seen: q is passed over, the first format in the list is taken. A quoted version is a TypeError, so the ASGI application
#   fails. For version=9.0.0 the answer calls itself OpenMetrics 9.0.0.
# For this project: GET /metrics orders what is asked for, takes off quotation marks, and asks the library for one format
#   at a time (http/routes/metrics.py); a test in test_telemetry.py holds that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check prometheus_client==0.26.0

"$folder/venv/bin/python" -I - <<'PYTHON'
import asyncio
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, make_asgi_app

registry = CollectorRegistry()
Counter("pushes", "Pushes.", registry=registry).inc()
app = make_asgi_app(registry)


async def answer(accept):
    """The media type and the last line that the library's own ASGI application sends."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"accept", accept.encode())]
    await app({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}, receive, send)
    return dict(sent[0]["headers"])[b"Content-Type"].decode(), sent[1]["body"].decode().splitlines()[-1]


def tell(accept):
    try:
        return asyncio.run(answer(accept))[0].replace("; charset=utf-8", "")
    except Exception as error:
        return f"{type(error).__name__}: {error}"


PLAIN, OPEN = "text/plain", "application/openmetrics-text"
CASES = {
    "not wanted": f"{PLAIN}, {OPEN};q=0",
    "liked less": f"{OPEN};version=1.0.0;q=0.1, {PLAIN};version=0.0.4;q=0.9",
    "as it is": f"{OPEN};version=1.0.0",
    "quoted": f'{OPEN};version="1.0.0"',
    "no such": f"{OPEN};version=9.0.0",
}
print(f"prometheus_client {version('prometheus_client')}")
print(f"expected: {PLAIN} for the first two, OpenMetrics of a version that there is for the others")
seen = {name: tell(accept) for name, accept in CASES.items()}
for name, accept in CASES.items():
    print(f"seen:     Accept: {accept}\n            {seen[name]}")
print("source:   choose_encoder in prometheus_client/exposition.py: no q, the first known name wins; parse_version in")
print("          prometheus_client/utils.py gives the string where a part is no number, and that is compared with (1, 0, 0)")
assert seen["not wanted"].startswith(OPEN), "changed: q=0"
assert seen["liked less"].startswith(OPEN), "changed: q=0.1 before q=0.9"
assert seen["as it is"].startswith(f"{OPEN}; version=1.0.0")
assert seen["quoted"].startswith("TypeError"), "changed: a quoted version"
assert seen["no such"].startswith(f"{OPEN}; version=9.0.0"), "changed: a version that does not exist"
print("as described")
PYTHON
