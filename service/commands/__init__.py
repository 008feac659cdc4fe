"""The commands of `scmrl`, one module each; `app` registers them."""
