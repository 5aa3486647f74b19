"""Where the ``whet`` command starts: an interrupt while Python still imports is no traceback."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""As in ``exits``, which is not imported yet when it is needed here."""


def main() -> None:
    """Run the command line of this process."""
    try:
        from whet.cli.main import main as run_main

        run_main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
