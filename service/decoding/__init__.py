"""Decode uploads to arrays in sandboxed processes, which damaged files may crash.

`pool` is the service's side, `worker` the process, `sandbox` its confinement, `wire` the messages
between them, and `files` decodes and preprocesses.
"""
