"""The service in replicas of Ray Serve (the extra `ray`)."""
