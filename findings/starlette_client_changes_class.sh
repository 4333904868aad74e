#!/usr/bin/env bash
# starlette 1.10.0: once httpx2 is installed, TestClient is no httpx.Client, and its errors are no httpx errors.
#
# What: a test that has an application's client raise for status, and catches httpx.HTTPStatusError; before and after some
#   other package has brought httpx2 into the environment. Nothing else changes, and nothing imports httpx2 by itself.
# Guess: TestClient is an httpx.Client, as FastAPI's documentation had it for years; an installed package that nobody
#   imports changes nothing.
# Seen: its base class is httpx2.Client from then on. `except httpx.HTTPStatusError` catches nothing, isinstance says no.
#   Without httpx2 it is as guessed, with a deprecation warning. It comes from the import at the top of
#   starlette/testclient.py.
# For this project: tests hand TestClient to helpers that take an httpx.Client, and look at nothing that differs;
#   the fixtures of the service's tests say so. The client itself uses httpx alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check starlette==1.10.0 httpx==0.28.1
cat >"$folder/example.py" <<'PYTHON'
import sys
import warnings

import httpx

warnings.simplefilter("ignore")
import starlette
from starlette.applications import Starlette
from starlette.testclient import TestClient

client = TestClient(Starlette())
print(f"starlette {starlette.__version__}; expected: an httpx.Client: True; caught as httpx.HTTPStatusError: True")
caught = False
try:
    client.get("/nothing").raise_for_status()
except httpx.HTTPStatusError:
    caught = True
except Exception as error:
    print("seen: raised by", type(error).__mro__[1].__module__.partition(".")[0])
same = isinstance(client, httpx.Client)
print(f"seen: an httpx.Client: {same}; caught as httpx.HTTPStatusError: {caught}")
sys.exit((same, caught) != (sys.argv[1] == "httpx",) * 2)
PYTHON
echo "httpx alone:"
"$folder/venv/bin/python" "$folder/example.py" httpx
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check httpx2==2.16.2
echo "httpx2 beside it:"
"$folder/venv/bin/python" "$folder/example.py" httpx2
echo "source: starlette/testclient.py, the import of httpx2 at its top"
echo "as described"
