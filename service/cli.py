"""The console script `scmrl`.

`scmrl serve` installs its signal handlers before slow imports, so that a signal during the start
is not lost and stops it cleanly.
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
