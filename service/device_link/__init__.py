"""The connection between the process that has the queues and the processes of devices."""
