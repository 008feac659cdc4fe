"""S-CMRL: network, training, checkpoints, media, preprocessing, explanations."""

import logging

# Torch warns on every import that Triton is missing, which is normal on a machine without a GPU.
logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
