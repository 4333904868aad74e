"""What is done to a whole store beside serving it: verify, repair."""
