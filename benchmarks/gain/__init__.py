"""What Avalanche's strategies gain by exemplars in the service, in as many bytes: ``python -m benchmarks.gain``."""
