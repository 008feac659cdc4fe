"""The task drones: what flies in the open air, seen and heard."""
