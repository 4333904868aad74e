"""The documentation builds as a site without a warning: no link, anchor, picture or docstring is broken."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT


def test_the_site_builds_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-c",
        "docs",
        "-d",
        str(tmp_path / "doctrees"),
        "-W",
        "--keep-going",
        "-q",
    ]
    done = subprocess.run([*command, ".", str(site)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = [page.relative_to(site).as_posix() for page in site.rglob("*.html")]
    assert {"index.html", "README.html", "docs/index.html", "docs/api.html"} <= set(pages)
    for page in pages:
        # Scripts, styles, fonts and pictures lie beside the page.
        loaded = re.findall(r'<(?:script|img|link)\b[^>]*\b(?:src|href)="(https?:[^"]*)"', (site / page).read_text())
        assert not loaded, f"{page}: {loaded}"
        # What is wider than the page can be moved with a keyboard, and headings of the list of pages have a level.
        assert not re.search(r'<pre>|<div class="table-wrapper|role="heading">', (site / page).read_text()), page
    reference = (site / "docs" / "api.html").read_text()
    for name in (
        "client.MemoryClient",
        "client.Buffer.sample",
        "client.Buffer.replace",
        "client.Buffer.take_snapshot",
        "client.dataset.ReplayDataset",
        "memory_format.make_record",
    ):
        assert f'id="{name}"' in reference
