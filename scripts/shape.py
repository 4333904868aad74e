"""The shape of the code in a checkout: lines, long files, circles of imports, and the most complex functions.

    python scripts/shape.py            this checkout
    python scripts/shape.py DIR        another one
    python scripts/shape.py --check    whether it keeps to the limits: a file has 400 lines at most, and no circle

Lines are those of the files. A circle is a set of modules that all import each other, by way of others too. Complexity
is McCabe's, as ruff counts it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import grimp

PACKAGES = ("memory_format", "memory_service", "client", "learner", "benchmarks")
MOST_LINES = 400
SHOWN = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument(
        "--check", action="store_true", help="say only what is over the limits; exit with 1 if anything is"
    )
    options = parser.parse_args()
    root = options.checkout.resolve()
    packages = [package for package in PACKAGES if (root / package).is_dir()]
    if not packages:
        parser.error(f"{root} is no checkout: it has none of {', '.join(PACKAGES)}")
    lines = {package: file_lines(root, package) for package in packages}
    found = {package: circles(root, package) for package in packages}
    long = {name: number for of in lines.values() for name, number in of.items() if number > MOST_LINES}
    told = [", ".join(circle) for package in packages for circle in found[package]]
    if options.check:
        for name, number in long.items():
            print(
                f"{name}: {number} lines, {MOST_LINES} at most: give one of its jobs a file of its own", file=sys.stderr
            )
        for circle in told:
            print(f"a circle of imports: {circle}", file=sys.stderr)
        return 1 if long or told else 0
    print(f"{'package':<16}{'files':>6}{'lines':>8}{'circles':>9}")
    for package, of in lines.items():
        print(f"{package:<16}{len(of):>6}{sum(of.values()):>8}{len(found[package]):>9}")
    files, total = sum(map(len, lines.values())), sum(sum(of.values()) for of in lines.values())
    print(f"{'all':<16}{files:>6}{total:>8}{len(told):>9}")
    print(f"\nfiles over {MOST_LINES} lines: {len(long)}")
    for name, number in sorted(long.items(), key=lambda item: -item[1]):
        print(f"{number:>6} {name}")
    print("".join(f"\ncircle: {circle}" for circle in told))
    print("most complex functions")
    for number, name in complexities(root, packages)[:SHOWN]:
        print(f"{number:>6} {name}")
    return 0


def file_lines(root: Path, package: str) -> dict[str, int]:
    """Lines of each file of a package, by its path."""
    files = sorted((root / package).rglob("*.py"))
    return {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in files}


def circles(root: Path, package: str) -> list[list[str]]:
    """The circles within a package, each as the names of its modules."""
    sys.path.insert(0, str(root))
    graph = grimp.build_graph(package, cache_dir=None)
    sys.path.remove(str(root))
    found: list[list[str]] = []
    left = set(graph.modules)
    while left:
        module = min(left)
        circle = (graph.find_upstream_modules(module) & graph.find_downstream_modules(module)) | {module}
        left -= circle
        if len(circle) > 1:
            found.append(sorted(circle))
    return found


def complexities(root: Path, packages: list[str]) -> list[tuple[int, str]]:
    """Functions by McCabe's number, the highest first."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--exit-zero", "--output-format=json"]
    rules = ["--select=C901", "--config=lint.mccabe.max-complexity=5"]
    done = subprocess.run([*ruff, *rules, *packages], cwd=root, check=True, capture_output=True, text=True)
    found = []
    for issue in json.loads(done.stdout):
        said = re.match(r"`(.+)` is too complex \((\d+) > \d+\)", issue["message"])
        assert said is not None, issue["message"]
        path = Path(issue["filename"]).relative_to(root)
        found.append((int(said[2]), f"{said[1]}, {path}:{issue['location']['row']}"))
    return sorted(found, reverse=True)


if __name__ == "__main__":
    sys.exit(main())
