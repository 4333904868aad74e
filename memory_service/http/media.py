"""Media types as RFC 9110 has them: parsed as a whole, not searched for."""

from __future__ import annotations

import re
from typing import Final

from memory_format.api.terms import JSON_MEDIA_TYPE

# Nothing in here goes back over what it took, however the header is made up.
_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*+"'
_PARAMETERS: Final = rf"(?>[ \t]*+;[ \t]*+(?:{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))?+)*+"
_TYPE: Final = re.compile(rf"[ \t]*+({_TOKEN}/{_TOKEN})({_PARAMETERS})[ \t]*+")
_WEIGHT: Final = re.compile(r";[ \t]*q=([0-9.]+)", re.IGNORECASE)


def media_type(content_type: str) -> str | None:
    """``type/subtype`` of a Content-Type, in lower case; None where it is none, or more than one."""
    found = _TYPE.fullmatch(content_type)
    return found[1].lower() if found else None


def prefers(accept: str, wanted: str) -> bool:
    """Whether an Accept header asks for a type by its name, and not rather for JSON.

    What is malformed asks for nothing.
    """
    weights: dict[str, float] = {}
    at = 0
    while at < len(accept):
        found = _TYPE.match(accept, at)
        at = found.end() + 1 if found else at
        if found is None or accept[at - 1 : at] not in ("", ","):
            return False
        weight = _WEIGHT.search(found[2])
        try:
            weights[found[1].lower()] = float(weight[1]) if weight else 1.0
        except ValueError:
            return False
    return weights.get(wanted, 0.0) > 0 and weights[wanted] >= weights.get(JSON_MEDIA_TYPE, 0.0)
