"""`scmrl bag`: classify recordings of ROS, without ROS."""

from service.commands.bag.command import register

__all__ = ["register"]
