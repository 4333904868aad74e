"""``make check-pages``: reports opened in a real Chromium, narrow and wide, light and dark, and judged by axe-core.

    python scripts/check_pages.py runs/demo/report.html --out runs/pages
    python scripts/check_pages.py runs/demo/report.html --picture docs/report.png

Writes ``PAGE-SCHEME-WIDTH.png`` of each, prints what axe-core finds, and ends with status 1 where that is serious or
something sticks out of the page; with 77 where there is no browser. ``--picture`` takes the upper part of one page,
without the pictures of what the memory holds: they may not be ours to publish.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

WIDTHS, SCHEMES = (400, 1280), ("light", "dark")
PICTURE_WIDTH = 1160
"""Three charts side by side."""
SERIOUS = ("serious", "critical")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SKIPPED = 77
"""Exit status of a check that could not be made, as automake has it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+", help="HTML files")
    parser.add_argument("--out", type=Path, help="folder for a picture of each page in each width and scheme")
    parser.add_argument(
        "--picture", type=Path, help="write one picture of the first page's upper part, and check nothing"
    )
    arguments = parser.parse_args()
    missing = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{', '.join(missing)} missing: pip install -e '.[pages]'", file=sys.stderr)
        return SKIPPED
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = _browser_path(playwright)
        if path is None:
            print("no Chromium: apt-get install chromium, or playwright install chromium", file=sys.stderr)
            return SKIPPED
        # Chromium's sandbox does not work for root, as in a container.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        try:
            if arguments.picture:
                _take_picture(browser, arguments.pages[0], arguments.picture)
                return 0
            return max(_check(browser, page, arguments.out) for page in arguments.pages)
        finally:
            browser.close()


def _browser_path(playwright: Playwright) -> str | None:
    own = playwright.chromium.executable_path
    return next(filter(None, map(shutil.which, BROWSERS)), own if Path(own).exists() else None)


def _check(browser: Browser, path: Path, out: Path | None) -> int:
    from axe_playwright_python.sync_playwright import Axe

    bad = 0
    for scheme in SCHEMES:
        for width in WIDTHS:
            page = _open(browser, path, scheme, width)
            page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
            if out:
                out.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=out / f"{path.stem}-{scheme}-{width}.png", full_page=True)
            found = Axe().run(page).response
            sticks_out = page.evaluate("document.documentElement.scrollWidth") - width
            serious = [violation for violation in found["violations"] if violation["impact"] in SERIOUS]
            print(
                f"{path} {scheme} {width} px: axe-core {found['testEngine']['version']}, {len(found['passes'])} rules "
                f"passed, {len(found['violations'])} not, {len(serious)} of them serious"
            )
            for violation in found["violations"]:
                print("  " + _words(violation))
            if sticks_out > 0:
                print(f"  the page is {sticks_out} px wider than the window")
            bad = max(bad, int(bool(serious) or sticks_out > 0))
            page.context.close()
    return bad


def _take_picture(browser: Browser, path: Path, picture: Path) -> None:
    """All above the list of classes, with more pixels than points so that it is sharp on most screens."""
    from PIL import Image

    page = _open(browser, path, "light", PICTURE_WIDTH, scale=1.25)
    end = page.locator("section[aria-labelledby=classes]").bounding_box()
    assert end is not None
    clip = {"x": 0, "y": 0, "width": PICTURE_WIDTH, "height": end["y"]}
    page.screenshot(path=picture, full_page=True, clip=clip)
    # A palette: half of the bytes.
    few = Image.open(picture).convert("RGB").quantize(256, kmeans=3)
    few.save(picture, optimize=True)
    print(f"wrote {picture}, {picture.stat().st_size:,} bytes")


def _open(browser: Browser, path: Path, scheme: Any, width: int, scale: float = 1.0) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, device_scale_factor=scale, offline=True
    )
    page = context.new_page()
    page.goto(path.resolve().as_uri())
    return page


def _words(violation: dict[str, Any]) -> str:
    first = violation["nodes"][0]["html"][:100]
    return f"{violation['impact']}: {violation['help']} ({len(violation['nodes'])} times, first in {first})"


if __name__ == "__main__":
    sys.exit(main())
