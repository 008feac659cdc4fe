"""The task avdigits-tactile: avdigits with the force on the pen as a third stream."""
