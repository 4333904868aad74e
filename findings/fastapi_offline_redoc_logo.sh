#!/usr/bin/env bash
# fastapi-offline 1.7.7: the Redoc page that is to need no network asks cdn.redoc.ly for a picture.
#
# What: FastAPIOffline(), which says that its pages don't rely on a CDN; the addresses that /docs and /redoc name, and
#   those of pictures in the scripts that they load.
# Guess: all of the service's own: the package is for machines without internet.
# Seen: the pages name none of another host, and Redoc's script makes an <img> of https://cdn.redoc.ly/redoc/logo-mini.svg
#   once it runs, so each reader's browser tells that host. with_google_fonts=False does not bear on it, and Redoc's
#   own page does the same (redoc 2). Without internet the picture is left out, after the browser has tried.
# For this project: /redoc is sent with a Content-Security-Policy whose img-src is the service and data: alone. The
#   browser refuses the picture before it asks, and the page is whole without it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    fastapi-offline==1.7.7 fastapi==0.165.0 httpx==0.28.1

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import re
from importlib.metadata import version

from fastapi.testclient import TestClient
from fastapi_offline import FastAPIOffline

client = TestClient(FastAPIOffline())
found = {}
for page in ("/docs", "/redoc"):
    html = client.get(page).text
    named = re.findall(r'(?:src|href)="([^"]+)"', html)
    scripts = [client.get(address).text for address in named if address.endswith(".js")]
    assert scripts, "changed: the page loads no script"
    pictures = re.findall(r'createElement\("img",\{[^}]*src:"(https?://[^"]+)"', "".join(scripts))
    found[page] = [address for address in named if "//" in address], pictures
print(f"fastapi-offline {version('fastapi-offline')}")
print("expected: nothing of another host, in the pages and in what they load")
for page, (named, pictures) in found.items():
    print(f"seen:     {page}: the page names {named}, its script makes pictures of {pictures}")
print("source:   fastapi_offline/static/redoc.standalone.js, the logo beside 'API docs by Redocly'")
assert found == {"/docs": ([], []), "/redoc": ([], ["https://cdn.redoc.ly/redoc/logo-mini.svg"])}, "changed"
print("as described")
PYTHON
