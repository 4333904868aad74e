#!/usr/bin/env bash
# pydantic 2.14.4: Base64Bytes drops what it does not know, and reads URL-safe text as fewer and other bytes.
#
# What: texts that are no base64 by RFC 4648, given to Base64Bytes: in the URL-safe alphabet, with other characters, and with a
#   second value behind the padding of the first. The same from JSON.
# Guess: a ValidationError each, as for "QUJ" ("Base64 decoding error").
# Seen: characters outside of the alphabet are passed over, "-" and "_" too: of nine bytes sent URL-safe six arrive, without an
#   error, wherever the number of such characters is a multiple of four. "QU==QUJD" is b"A".
# For this project: arrays in JSON are text for pydantic, and decoded with validate=True (convert.py of the HTTP part).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pydantic==2.14.4

"$folder/venv/bin/python" -I - <<'PYTHON'
import base64
from importlib.metadata import version

from pydantic import Base64Bytes, TypeAdapter, ValidationError

SENT = b"ABC\xfb\xff\xbfABC"
TEXTS = {
    "QUJD": b"ABC",
    "QUJ": None,
    base64.urlsafe_b64encode(SENT).decode(): b"ABCABC",
    "{QUJD}": b"ABC",
    "QUJD!!??": b"ABC",
    "QU==QUJD": b"A",
}
adapter = TypeAdapter(Base64Bytes)


def taken(validate, value):
    try:
        return validate(value)
    except ValidationError:
        return None


def strict(text):
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


print(f"pydantic {version('pydantic')}")
for text, described in TEXTS.items():
    seen = taken(adapter.validate_python, text)
    print(f"{text:12} expected {strict(text) or 'an error'}, seen {seen or 'an error'}")
    assert seen == taken(adapter.validate_json, f'"{text}"') == described, f"changed: {text}"
print("source: pydantic/types.py, Base64Encoder.decode: base64.b64decode(data), whose validate is False by default: 'characters")
print("        that are neither in the normal base-64 alphabet nor the alternative alphabet are discarded'")
print("as described")
PYTHON
