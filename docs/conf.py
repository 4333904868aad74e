"""The site: ``make docs``. Its pages are the Markdown files of the repository, with the links that they have there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "Exemplar Memory"
author = "the authors of Exemplar Memory"
project_copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/contents"
# The source is the repository: a link from one page to another leads there on the site as it does in the files.
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "ATTRIBUTION.md",
    "docs/contents.rst",
    "docs/**.md",
    "benchmarks/README.md",
    "benchmarks/results/*/*.md",
    "findings/README.md",
    "examples/README.md",
]
# Folders that would be searched for nothing.
exclude_patterns = [".venv", ".git", ".*_cache", ".hypothesis", "data", "runs", "site", "build", "dist"]

myst_heading_anchors = 4
# Pictures with a width, which Markdown cannot say.
myst_enable_extensions = ["html_image"]
suppress_warnings = [
    # Tables and results begin with a heading of their own level.
    "myst.header",
    # Pygments knows no csv.
    "misc.highlighting_failure",
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "Exemplar Memory"
html_extra_path = ["site"]
html_copy_source = False
html_show_sphinx = False

# What Sphinx 9 and Furo leave out, and who reads with a keyboard or by ear needs: headings of the list of pages have no
# level, and a block of code that is wider than the page can only be moved with a mouse.
_ACCESSIBLE = {
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Pages">',
    '<aside class="toc-drawer">': '<aside class="toc-drawer" aria-label="On this page">',
}


def setup(app: Any) -> None:
    app.connect("build-finished", _make_accessible)


def _make_accessible(app: Any, exception: Exception | None) -> None:
    for page in Path(app.outdir).rglob("*.html") if exception is None else ():
        text = page.read_text(encoding="utf-8")
        for given, wanted in _ACCESSIBLE.items():
            text = text.replace(given, wanted)
        page.write_text(text, encoding="utf-8")
