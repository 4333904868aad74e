"""What learners tell each other through a buffer that they share: ``python -m benchmarks.sharing``."""
