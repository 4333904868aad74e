"""What learners that push and sample at once get of one service, and of two replicas: ``make bench-sharing``."""
