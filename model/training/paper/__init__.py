"""The three tasks of the paper (arXiv 2502.12488), with its splits and hyperparameters."""
