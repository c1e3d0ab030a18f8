"""`python -m reckoner` and the installed command `reckon`."""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType


def main() -> int:
    """One command as a process of its own: `cli.main`, and a quick end."""
    for watched in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(watched) != signal.SIG_IGN:
            signal.signal(watched, _leave)
    from reckoner import cli

    try:
        return cli.main()
    finally:
        gc.freeze()  # else the interpreter's last collection walks all of torch and transformers: 2 s


def _leave(number: int, frame: FrameType | None) -> None:
    """Nothing has begun yet, or all is done."""
    os._exit(75)


if __name__ == "__main__":
    sys.exit(main())
