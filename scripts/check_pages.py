"""``make check-pages``: reports opened in a real Chromium, narrow and wide, light and dark, and judged by axe-core.

    python scripts/check_pages.py runs/demo/report.html --out runs/pages
    python scripts/check_pages.py --store runs/demo/memory --out runs/pages
    python scripts/check_pages.py runs/demo/report.html --picture docs/report.png

Writes ``PAGE-SCHEME-WIDTH.png`` of each, prints what axe-core finds, and ends with status 1 where that is serious,
something sticks out of the page, or is asked of another machine; with 77 where there is no browser. ``--picture`` takes
the upper part of one page, without the pictures of what the memory holds: they may not be ours to publish.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx

from memory_service.store.keys import KeyFile
from memory_service.store.transfer.backup import backup
from memory_service.testing import ServiceProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

WIDTHS, SCHEMES = (400, 1280), ("light", "dark")
PICTURE_WIDTH = 1160
"""Three charts side by side."""
SERIOUS = ("serious", "critical")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPEN = """async () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
    for (const picture of document.images) picture.loading = "eager";
    await Promise.allSettled(Array.from(document.images, picture => picture.decode()));
}"""
"""All that a page has: what is folded, and pictures that would come only once they are scrolled to."""
SKIPPED = 77
"""Exit status of a check that could not be made, as automake has it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="HTML files, or addresses of pages")
    parser.add_argument("--store", type=Path, help="folder of a store, whose service's pages are looked at, too")
    parser.add_argument("--out", type=Path, help="folder for a picture of each page in each width and scheme")
    parser.add_argument(
        "--picture", type=Path, help="write one picture of the first page's upper part, and check nothing"
    )
    arguments = parser.parse_args()
    if not (arguments.pages or arguments.store):
        parser.error("name pages, or a --store")
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
            pages = [page if "://" in page else Path(page).resolve().as_uri() for page in arguments.pages]
            if arguments.picture:
                _take_picture(browser, pages[0], arguments.picture)
                return 0
            with contextlib.ExitStack() as stack:
                headers: dict[str, str] = {}
                if arguments.store:
                    own, headers = stack.enter_context(_pages_of(arguments.store))
                    pages += own
                return max(_check(browser, page, headers, arguments.out) for page in pages)
        finally:
            browser.close()


def _browser_path(playwright: Playwright) -> str | None:
    own = playwright.chromium.executable_path
    return next(filter(None, map(shutil.which, BROWSERS)), own if Path(own).exists() else None)


@contextlib.contextmanager
def _pages_of(store: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The addresses of one page of each kind, of a service over a copy of a store that asks for a key."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "store"
        backup(store, copy)
        keys = KeyFile(copy)
        keys.make("read", time.time(), buffers=["left-*", "shared"], learner_id="left", note="of somebody")
        headers = {"Authorization": f"Bearer {keys.make('admin', time.time(), note='the one that looks')[1]}"}
        with ServiceProcess(copy) as service, httpx.Client(base_url=service.url, headers=headers) as client:
            yield [service.url + path for path in _paths(client)], headers


def _paths(client: httpx.Client) -> list[str]:
    paths = ["/", "/keys", "/runs", "/sign-in"]
    paths += [f"/runs/{run['run_id']}" for run in client.get("/v1/runs?limit=1").raise_for_status().json()["runs"]]
    buffers = [line["info"] for line in client.get("/.json").raise_for_status().json()["buffers"]]
    if buffers:
        fullest = max(buffers, key=lambda info: info["num_records"])["name"]
        # Not every run goes in step with others.
        client.put(f"/v1/buffers/{fullest}/phases/left", json={"phase": 4, "ended": True}).raise_for_status()
        client.put(f"/v1/buffers/{fullest}/phases/right", json={"phase": 2}).raise_for_status()
        paths += _pages_of_buffer(client, f"/buffers/{fullest}")
    return paths


def _pages_of_buffer(client: httpx.Client, address: str) -> list[str]:
    paths = [f"{address}/summary", f"{address}/summary?nothing=here"]
    snapshots = client.get(f"{address}/summary.json").raise_for_status().json()["snapshots"]
    if snapshots:
        paths.append(f"{address}/diff?from={snapshots[-1]['name']}")
    cards = client.get(f"{address}/gallery.json").raise_for_status().json()["cards"]
    return [*paths, f"{address}/gallery?class_id=0&class_id=1&phase=0", *(card["address"] for card in cards[:1])]


def _check(browser: Browser, url: str, headers: dict[str, str], out: Path | None) -> int:
    from axe_playwright_python.sync_playwright import Axe

    name = re.sub(r"\W+", "-", httpx.URL(url).path.rpartition("/")[2].removesuffix(".html")) or "overview"
    if "nothing" in url:
        name = "problem"
    bad = 0
    for scheme in SCHEMES:
        for width in WIDTHS:
            page, elsewhere = _open(browser, url, scheme, width, headers=headers)
            page.evaluate(OPEN)
            if out:
                out.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=out / f"{name}-{scheme}-{width}.png", full_page=True)
            found = Axe().run(page).response
            sticks_out = page.evaluate("document.documentElement.scrollWidth") - width
            serious = [violation for violation in found["violations"] if violation["impact"] in SERIOUS]
            print(
                f"{url} {scheme} {width} px: axe-core {found['testEngine']['version']}, {len(found['passes'])} rules "
                f"passed, {len(found['violations'])} not, {len(serious)} of them serious"
            )
            for violation in found["violations"]:
                print("  " + _words(violation))
            if sticks_out > 0:
                print(f"  the page is {sticks_out} px wider than the window")
            for asked in elsewhere:
                print(f"  it asks another machine for {asked}")
            bad = max(bad, int(bool(serious or elsewhere) or sticks_out > 0))
            page.context.close()
    return bad


def _take_picture(browser: Browser, url: str, picture: Path) -> None:
    """All above the list of classes, with more pixels than points so that it is sharp on most screens."""
    from PIL import Image

    page, _ = _open(browser, url, "light", PICTURE_WIDTH, scale=1.25)
    end = page.locator("section[aria-labelledby=classes]").bounding_box()
    assert end is not None
    clip = {"x": 0, "y": 0, "width": PICTURE_WIDTH, "height": end["y"]}
    page.screenshot(path=picture, full_page=True, clip=clip)
    # A palette: half of the bytes.
    few = Image.open(picture).convert("RGB").quantize(256, kmeans=3)
    few.save(picture, optimize=True)
    print(f"wrote {picture}, {picture.stat().st_size:,} bytes")


def _open(
    browser: Browser, url: str, scheme: Any, width: int, scale: float = 1.0, headers: dict[str, str] | None = None
) -> tuple[Page, list[str]]:
    """A page, all of it shown, and what it asks of others than who serves it."""
    is_file = url.startswith("file:")
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, device_scale_factor=scale, offline=is_file
    )
    context.set_extra_http_headers(headers or {})
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url, wait_until="networkidle")
    origin = "file:" if is_file else url[: url.index("/", url.index("://") + 3) + 1]
    return page, [each for each in asked if not each.startswith((origin, "data:", "blob:"))]


def _words(violation: dict[str, Any]) -> str:
    first = violation["nodes"][0]["html"][:100]
    return f"{violation['impact']}: {violation['help']} ({len(violation['nodes'])} times, first in {first})"


if __name__ == "__main__":
    sys.exit(main())
