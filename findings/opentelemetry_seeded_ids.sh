#!/usr/bin/env bash
# OpenTelemetry 1.45.2: two runs with the same `random.seed` have the same trace ids, and a run that is traced draws other random numbers.
#
# What: a training script that seeds Python's `random`, opens two spans and shuffles its classes, run twice with seed 0, once with seed 1, and once
#   without spans. Then with an `id_generator` of its own.
# Guess: ids come from the system, as uuid4 does: they differ between runs whatever is seeded, and tracing changes nothing that is computed.
# Seen: both runs of seed 0 have the same trace ids and span ids, so that a backend puts them together into one trace. Each span takes numbers out of
#   the shared generator: the classes come in another order than without spans. A generator of the provider's own mends both.
# For this project: the service seeds nothing. Who traces a learner gives its provider a generator of its own (docs/howto/monitor.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check opentelemetry-sdk==1.45.2

cat > "$folder/train.py" <<'PYTHON'
import json
import random
import secrets
import sys
from contextlib import nullcontext

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator


class OwnIds(RandomIdGenerator):
    def generate_span_id(self):
        return secrets.randbits(64) or 1

    def generate_trace_id(self):
        return secrets.randbits(128) or 1


seed, how = int(sys.argv[1]), sys.argv[2]
random.seed(seed)
provider = TracerProvider(id_generator=OwnIds() if how == "own ids" else None)
tracer = provider.get_tracer("learner")
ids = []
for phase in range(2):
    with tracer.start_as_current_span(f"phase {phase}") if how != "no spans" else nullcontext() as span:
        if span is not None:
            ids.append(f"{span.get_span_context().trace_id:032x}/{span.get_span_context().span_id:016x}")
classes = list(range(8))
random.shuffle(classes)
print(json.dumps({"ids": ids, "classes": classes}))
PYTHON
cat > "$folder/compare.py" <<'PYTHON'
import json
import subprocess
import sys
from importlib.metadata import version


def run(seed, how):
    done = subprocess.run([sys.executable, "-I", sys.argv[1], str(seed), how], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


first, second, other = run(0, "spans"), run(0, "spans"), run(1, "spans")
plain, own, own_again = run(0, "no spans"), run(0, "own ids"), run(0, "own ids")
print(f"opentelemetry-sdk {version('opentelemetry-sdk')}; expected: other ids in each run; the same order of classes with spans and without")
print(f"seen: seed 0: {first['ids']}")
print(f"      again:  {second['ids']}")
print(f"seen: seed 0, classes {first['classes']}, without spans {plain['classes']}, with ids of its own {own['classes']}")
print("source: RandomIdGenerator in opentelemetry/sdk/trace/id_generator.py: random.getrandbits, of the generator that random.seed seeds")
print("        (open-telemetry/opentelemetry-python#4376)")
assert first["ids"] == second["ids"] and len(set(first["ids"])) == 2, "changed: the ids of one seed"
assert first["ids"] != other["ids"], "changed: the ids of another seed"
assert first["classes"] != plain["classes"], "changed: the order of the classes"
assert own["ids"] != own_again["ids"] and own["classes"] == plain["classes"], "changed: a generator of its own"
print("as described")
PYTHON
"$folder/venv/bin/python" -I "$folder/compare.py" "$folder/train.py"
