"""What of the documentation's blocks is not run as it stands, and why: all of it is here.

A block is named by its page and its first line. An entry that names no block fails a test.
"""

from __future__ import annotations

Name = tuple[str, str]

_ENGINE = "needs an engine and images"
_CLUSTER = "needs a cluster"

NOT_RUN: dict[Name, str] = {
    ("README.md", "make setup"): "installs some 6 GB",
    ("README.md", "make demo"): "trains for minutes, and downloads; tests of the learner run it on less",
    ("README.md", "make test"): "is what runs here",
    ("docs/format.md", "import duckdb"): "is run on files in tests/memory_service/test_other_readers.py",
    ("docs/tutorial.md", "make setup"): "installs, which a test has behind it",
    (
        "docs/service.md",
        "MEMORY_SERVICE_ALLOWED_HOSTS=memory,memory.example.org \\",
    ): "listens where other machines can reach it",
    (
        "docs/howto/postgresql.md",
        "pip install 'exemplar-memory[service,postgres]'",
    ): "installs, which a test has behind it",
    ("docs/howto/postgresql.md", "sudo -u postgres createuser --pwprompt memory"): "needs the system's server",
    (
        "docs/howto/postgresql.md",
        "export MEMORY_SERVICE_INDEX=postgresql+psycopg://memory@127.0.0.1/memory",
    ): "the same; tests/memory_service/test_postgres.py does it with one of its own",
    (
        "docs/howto/postgresql.md",
        "memory-service backup runs/memory backups/memory",
    ): "the same; tests/memory_service/test_outside.py does it",
    ("docs/howto/postgresql.md", "pg_dump memory --file memory.sql"): "the same",
    (
        "docs/howto/migrate.md",
        "export MEMORY_SERVICE_TO_INDEX=postgresql+psycopg://memory@127.0.0.1/memory",
    ): "the same, and a bucket; tests/memory_service/test_migrate.py does it",
    (
        "docs/howto/migrate.md",
        "memory-service migrate runs/moved runs/back --from-index $MEMORY_SERVICE_TO_INDEX --from-segments s3://bucket/memory",
    ): "the same",
    (
        "docs/howto/object-store.md",
        "pip install 'exemplar-memory[service,objects]'",
    ): "installs, which a test has behind it",
    (
        "docs/howto/object-store.md",
        "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... AWS_REGION=eu-central-1",
    ): "needs a bucket; tests/memory_service/test_objects.py does it with one of its own",
    (
        "docs/howto/replicas.md",
        "pip install 'exemplar-memory[service,postgres,objects]'",
    ): "installs, which a test has behind it",
    (
        "docs/howto/replicas.md",
        "export MEMORY_SERVICE_INDEX=postgresql+psycopg://memory@db/memory",
    ): "needs both servers; tests/memory_service/test_replica_processes.py does it with some of its own",
    (
        "docs/service.md",
        "docker run --rm --user root -v memory:/memory exemplar-memory-service chown -R memory: /memory",
    ): _ENGINE,
    (
        "docs/howto/mammoth.md",
        "from utils.buffer import Buffer",
    ): "Mammoth is in no registry; tests/adapters/test_mammoth.py does it, and tests/examples",
    (
        "docs/howto/pycil.md",
        "from models.icarl import iCaRL",
    ): "PyCIL is in no registry; tests/adapters/test_pycil.py does it, and tests/examples",
    (
        "docs/howto/own-backbone.md",
        "learner run pictures --url http://127.0.0.1:8765 --out runs/dino --set backbone.kind=timm \\",
    ): "loads from hubs and trains for minutes; tests/learner/test_runs_of_kinds.py runs each kind",
    ("docs/decisions/0022-segments-as-objects.md", "make check-objects"): "takes minutes, and installs servers",
    (
        "docs/howto/vision-language.md",
        "python examples/vision_language.py",
    ): "takes half a minute; tests/examples does it in less",
    ("docs/howto/containers.md", "docker compose up"): _ENGINE,
    ("docs/howto/containers.md", "TORCH_BACKEND= docker compose build learner"): _ENGINE,
    ("docs/howto/containers.md", "docker compose up learner-gpu"): _ENGINE,
    ("docs/howto/containers.md", "docker compose --profile scale up left right"): _ENGINE,
    ("docs/howto/kubernetes.md", "memory-service keys make --role admin --data keys"): _CLUSTER,
    ("docs/howto/kubernetes.md", "kubectl apply --filename deploy/kubernetes.yaml"): _CLUSTER,
    (
        "docs/howto/kubernetes.md",
        "kubectl create secret generic exemplar-memory-keys --from-file keys.json=keys/keys.json \\",
    ): _CLUSTER,
    ("docs/howto/containers.md", "export IMAGES=registry.example.org/team/ TAG=0.2"): _ENGINE,
}

JUDGED: dict[str, str] = {
    "docs/learner.md": "its runs take hours, or need data that is not here",
    "docs/howto/paper-data.md": "the same",
    "docs/howto/one-machine.md": "its runs take minutes each",
    "docs/howto/ranks.md": "the same; tests/learner/test_ranks.py has a small one",
}
"""Pages whose commands are all the learner's: they are parsed, and the whole configuration is judged as it is before
a run."""

STOPPED_BEFORE: set[Name] = {("docs/service.md", "memory-service export demo demo-again.zarr.zip --data runs/memory")}
"""Before these the reader ends the service with Ctrl-C, as the page says."""

NOT_COMPARED: dict[Name, str] = {
    ("docs/tutorial.md", "pictures/"): "a folder",
    (
        "docs/format.md",
        "charge = 39 + ⌈h·w/8⌉ + ⌈text_length/8⌉ + 2·T + (4 + extras, if any) + payload",
    ): "a formula",
}
"""``text`` blocks that are not what the block before them prints word by word."""

INSTEAD: dict[str, tuple[str, str]] = {
    "--out runs/three --seeds 3": ("--out runs/three --seeds 2", "each takes as long as a run"),
}
"""Words of blocks, and what a test has for them."""

SMALLER: dict[str, str] = {
    "docs/tutorial.md": "--set backbone.kind=small --set backbone.patch_px=8 --set backbone.num_layers=2 "
    "--set backbone.hidden_size=64 --set data.image_size=32 --set data.train_per_class=6 --set data.test_per_class=2 "
    "--set data.num_classes=4 --set data.base_classes=2 --set data.classes_per_phase=2 "
    "--set train.base_epochs=1 --set train.ssf_epochs=1",
}
"""Arguments added to each ``learner run`` of a page, so that it takes seconds. In zsh it is ``--help``: the command's
words are read there, and bash has run them."""
