"""What a learner costs its machine: time beside others, memory, masks, and replay: ``python -m benchmarks.cost``."""

from learner.before_torch import prepare

prepare()
