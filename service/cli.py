"""The console script `scmrl`.

`scmrl serve` handles signals before anything that takes time is imported, so that no signal is
lost or ends it in disorder.
"""

from __future__ import annotations

import sys

from service.runtime.shutdown import SIGNALS


def main() -> None:
    """Run the command that the arguments name."""
    if sys.argv[1:2] == ["serve"]:
        SIGNALS.handle()
    from service.commands.app import app

    app()


if __name__ == "__main__":
    main()
