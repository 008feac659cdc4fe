"""Spoken digits (Free Spoken Digit Dataset), for the tasks in which a digit is said."""
