"""Links from page to page lead somewhere, in the files as they are and with the anchors that GitHub gives headings."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.docs.pages import ROOT

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
    ROOT / "findings" / "README.md",
    ROOT / "examples" / "README.md",
]


def _links(page: Path) -> list[str]:
    inline = [token for token in _parsed(page) if token.type == "inline"]
    children = [child for token in inline for child in token.children or []]
    html = "".join(token.content for token in _parsed(page) if token.type in ("html_block", "inline"))
    return re.findall(r'<img\b[^>]*\bsrc="([^"]*)"', html) + [
        str(child.attrGet("href") or child.attrGet("src")) for child in children if child.type in ("link_open", "image")
    ]


def _anchors(page: Path) -> set[str]:
    """Of headings, as GitHub makes them; the second of a name has ``-1`` behind it."""
    tokens = _parsed(page)
    anchors: Counter[str] = Counter()
    found = set()
    for heading, content in pairwise(tokens):
        if heading.type == "heading_open":
            words = "".join(child.content for child in content.children or [] if child.type in ("text", "code_inline"))
            anchor = re.sub(r"[^\w -]", "", words.lower()).replace(" ", "-")
            found.add(f"{anchor}-{anchors[anchor]}" if anchors[anchor] else anchor)
            anchors[anchor] += 1
    return found


def _parsed(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for link in _links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in _anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(page: Path) -> None:
    inline = [token for token in _parsed(page) if token.type == "inline"]
    spans = [child.content for token in inline for child in token.children or [] if child.type == "code_inline"]
    folders = "memory_format|memory_service|client|learner|benchmarks|scripts|tests|examples|findings|docs"
    named = [span for span in spans if re.fullmatch(rf"({folders})/[\w./-]*", span)]
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("script", sorted((ROOT / "findings").glob("*.sh")), ids=lambda script: script.name)
def test_a_finding_names_files_that_there_are(script: Path) -> None:
    for name in re.findall(r"\b(?:client|docs|learner|tests)/[\w./-]+\.(?:md|py)\b", script.read_text()):
        assert (ROOT / name).exists(), name
