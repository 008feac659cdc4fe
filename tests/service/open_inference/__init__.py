"""The Open Inference Protocol, without and with the clients that others wrote."""
