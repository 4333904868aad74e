"""The store against what people use today: ``python -m benchmarks.storage``."""
