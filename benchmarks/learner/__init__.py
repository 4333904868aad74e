"""Methods at equal bytes: ``python -m benchmarks.learner``."""

from learner.before_torch import prepare

prepare()
