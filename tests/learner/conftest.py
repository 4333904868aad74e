"""Small models are faster on one thread, and the service of a test needs the other core."""

import torch

torch.set_num_threads(1)
