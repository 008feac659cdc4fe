"""`scmrl watch`: classify a camera, a microphone, an address or a file live, by a server."""

from service.commands.watch.command import register

__all__ = ["register"]
