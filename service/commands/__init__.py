"""The commands of `scmrl`, one a file; each registers itself on the app of service/cli.py."""
