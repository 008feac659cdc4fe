"""Benchmarks of the service: clips, load, servers, and measurements.

The commands of `scmrl bench` (service/commands/bench/) print the results.
"""
