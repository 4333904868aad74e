"""``learner methods``: what there is to compare, a line each."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from learner.run.method_parts import BASES, NUMBERED, PARTS
from learner.run.methods import DEFAULT


def methods(console: Console) -> None:
    """Print bases and parts."""
    parts = {name: part.words for name, part in PARTS.items()}
    parts |= {name: part.words for name, part in NUMBERED.items()}
    lines = [
        f"A method is BASE[+PART...], as in masked+text+q50; several have commas between. Default: {','.join(DEFAULT)}",
        "",
        "bases, which say what is stored:",
        *_lines({name: base.words for name, base in BASES.items()}),
        "",
        "parts, each of which changes something:",
        *_lines(parts),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _lines(words: Mapping[str, str]) -> list[str]:
    width = max(map(len, words))
    return [f"  {name:{width}}  {what}" for name, what in words.items()]
