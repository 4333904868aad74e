"""Pages of the documentation, and their code blocks in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md"))
)
LANGUAGES = {"sh", "python", "json", "toml", "csv", "text"}


@dataclass(frozen=True)
class Block:
    """A fenced block. ``text`` is what was printed by the block that ran before it; the others are what they say."""

    page: str
    line: int
    language: str
    text: str
    file: str | None
    """Name of the file that the reader is to make of it: the last `name.toml` (or other) of the words before it."""
    section: int
    """Headings before it."""

    @property
    def name(self) -> tuple[str, str]:
        """What exceptions call it: the page, and the block's first line."""
        return self.page, self.text.splitlines()[0].strip() if self.text.strip() else ""

    @property
    def at(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    found = []
    words, section = "", 0
    for token in MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text()):
        if token.type == "inline":
            words = token.content
        elif token.type == "heading_open":
            section += 1
        elif token.type in ("fence", "code_block"):
            assert token.map is not None
            language = token.info.strip()
            if language.startswith("{"):
                # For the maker of the site, and no code.
                continue
            named = re.findall(rf"`([\w-]+\.{language})`", words) if language else []
            found.append(Block(page, token.map[0] + 1, language, token.content, named[-1] if named else None, section))
    return found
