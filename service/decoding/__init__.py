"""Uploads to arrays, in processes that may die of them.

`files` does the work, `sandbox` confines the process it runs in, `worker` is that process,
`wire` what is said to it and back, and `pool` the service's side.
"""
