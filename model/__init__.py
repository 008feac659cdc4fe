"""All that knows S-CMRL: network, training, checkpoints, media, preprocessing, explanations."""

import logging

# Torch says on every import that Triton is missing, which on a machine without a GPU is no news.
logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
