"""Methods at equal bytes: ``python -m benchmarks.learner``."""
