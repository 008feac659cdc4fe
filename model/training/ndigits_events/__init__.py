"""The task ndigits-events: a digit seen by an event camera while a cochlea hears it."""
