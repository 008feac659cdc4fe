"""How fast the service is: the clips, the load, the servers under it, and what is measured.

`scmrl bench service` and `scmrl bench decode` (service/commands/bench/) print what these find.
"""
