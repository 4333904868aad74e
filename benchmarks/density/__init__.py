"""How many exemplars fit where one full sample was: ``python -m benchmarks.density``."""
