"""``make prose``: words of the pages, and how long their sentences are. Ends with 1 where a bound is passed.

    scripts/prose.py README.md docs/*.md
    scripts/prose.py --most-words 1000 --most-median 18 --longest 2 README.md

Words are counted without code blocks and tables. Sentences are those of paragraphs and lists; headings, pictures
and tables have none.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

# A full stop, with what closes after it, and before what a sentence begins with.
_END = re.compile(r"(?<=[.!?])[)\"'*_]*\s+(?=[\"'(*_`A-Z0-9])")
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|et al|vs|approx|no)\.(?=\s)")


def words_of(page: str) -> int:
    """Words outside code blocks and tables."""
    return len(re.sub(r"^(```.*?^```|\|).*?$", "", page, flags=re.DOTALL | re.MULTILINE).split())


def sentences_of(page: str) -> list[str]:
    """Sentences of paragraphs and lists, without links' addresses and pictures."""
    sentences = []
    inside: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").parse(page):
        if token.nesting == 1:
            inside.append(token.type)
        elif token.nesting == -1:
            inside.pop()
        elif token.type == "inline" and not {"heading_open", "table_open"} & set(inside):
            text = " ".join(_plain(token.children or []).split())
            text = _ABBREVIATIONS.sub(r"\1", text)
            sentences += [sentence for sentence in _END.split(text) if len(sentence.split()) > 1]
    return sentences


def _plain(tokens: list[Token]) -> str:
    return "".join(_plain_of(token) for token in tokens)


def _plain_of(token: Token) -> str:
    if token.type == "code_inline":
        # One word, however many it is made of.
        return "`" + re.sub(r"\s+", "_", token.content) + "`"
    if token.type == "text":
        return token.content
    return " " if token.type in ("softbreak", "hardbreak") else ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Words of pages, and the length of their sentences.")
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--most-words", type=int, help="of a page; more is status 1")
    parser.add_argument("--most-median", type=float, help="words a sentence in the median; more is status 1")
    parser.add_argument("--longest", type=int, default=1, metavar="N", help="show the N longest sentences of a page")
    options = parser.parse_args(argv)
    too_much = []
    print(f"{'page':<42} {'words':>6} {'sentences':>9} {'median':>6} {'longest':>7}")
    for path in options.pages:
        page = path.read_text()
        words, sentences = words_of(page), sorted(sentences_of(page), key=lambda text: -len(text.split()))
        lengths = [len(sentence.split()) for sentence in sentences] or [0]
        median = statistics.median(lengths)
        print(f"{path!s:<42} {words:>6} {len(sentences):>9} {median:>6g} {lengths[0]:>7}")
        for sentence in sentences[: options.longest]:
            print(f"    {len(sentence.split())}: {sentence}")
        if options.most_words is not None and words > options.most_words:
            too_much.append(f"{path} has {words} words; {options.most_words} at most")
        if options.most_median is not None and median > options.most_median:
            too_much.append(f"{path}: {median:g} words a sentence in the median; {options.most_median:g} at most")
    for line in too_much:
        print(line, file=sys.stderr)
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main())
