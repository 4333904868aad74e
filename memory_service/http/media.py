"""Media types as RFC 9110 has them: parsed as a whole, not searched for."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    weights = _weights(accept)
    return weights.get(wanted, 0.0) > 0 and weights[wanted] >= weights.get(JSON_MEDIA_TYPE, 0.0)


def chosen(accept: str, offered: Sequence[str]) -> str | None:
    """Which of the types on offer an Accept header asks for most, with its wildcards; the first of several that it asks
    for alike. None where it takes none of them. What is empty or malformed asks for nothing, and gets the first."""
    weights = _weights(accept) or {"*/*": 1.0}

    def weight(kind: str) -> float:
        # What says more goes before what says less (RFC 9110, 12.5.1).
        named = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return next((weights[name] for name in named if name in weights), 0.0)

    best = max(offered, key=weight)
    return best if weight(best) > 0 else None


def _weights(accept: str) -> dict[str, float]:
    """Media ranges and their weights; nothing where the header is malformed."""
    weights: dict[str, float] = {}
    at = 0
    while at < len(accept):
        found = _TYPE.match(accept, at)
        at = found.end() + 1 if found else at
        if found is None or accept[at - 1 : at] not in ("", ","):
            return {}
        weight = _WEIGHT.search(found[2])
        try:
            weights[found[1].lower()] = float(weight[1]) if weight else 1.0
        except ValueError:
            return {}
    return weights
