#!/usr/bin/env bash
# prometheus_client 0.26.0: a NaN that is observed is in no bucket and not counted, and the sum is NaN for ever.
#
# What: a Histogram with buckets to 1 and 2 observes 0.5, NaN and 1.5; a Summary too; a Counter is raised by NaN, then by 3.
# Guess: an error, as for a negative number in a Counter; or all three are counted, NaN in the bucket of +Inf, and their sum is NaN.
# Seen: the histogram's _count is 2, that of the summary is 3, and both sums are NaN from then on: rate() and averages of them are NaN until the process
#   ends, while the counts look well. The counter takes NaN, and stays NaN. _count is the sum of the buckets, and NaN is below no bound, not even
#   +Inf.
# For this project: what is observed are seconds by the monotonic clock (http/telemetry.py). Scores and losses, which may be NaN, are
#   in no metric.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check prometheus_client==0.26.0

cat > "$folder/counted.py" <<'PYTHON'
import math
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

registry = CollectorRegistry()
histogram = Histogram("histogram", "Of three.", buckets=(1, 2), registry=registry)
summary = Summary("summary", "Of three.", registry=registry)
counter = Counter("counter", "Raised twice.", registry=registry)
for value in (0.5, math.nan, 1.5):
    histogram.observe(value)
    summary.observe(value)
counter.inc(math.nan)
counter.inc(3)
try:
    counter.inc(-1)
    negative = "taken"
except ValueError as error:
    negative = str(error)
WANTED = {
    "histogram_bucket +Inf": (3, 2),
    "histogram_count": (3, 2),
    "summary_count": (3, 3),
    "histogram_sum": (math.nan, math.nan),
    "summary_sum": (math.nan, math.nan),
    "counter_total": ("an error", math.nan),
}
seen = {
    name: registry.get_sample_value(name.split()[0], {"le": "+Inf"} if name.endswith("+Inf") else {}) for name in WANTED
}
print(f"prometheus_client {version('prometheus_client')}")
for name, (expected, _) in WANTED.items():
    print(f"{name:22} expected {expected}, seen {seen[name]}")
print(f"a counter raised by -1: {negative}")
print("source: prometheus_client/metrics.py: Histogram.observe takes the first bucket with amount <= bound;")
print("        Histogram._child_samples adds up the buckets to _count; Counter.inc refuses amount < 0")
for name, (_, described) in WANTED.items():
    assert seen[name] == described or math.isnan(seen[name]) and math.isnan(described), f"changed: {name}: {seen[name]}"
assert negative != "taken"
print("as described")
PYTHON
"$folder/venv/bin/python" "$folder/counted.py"
