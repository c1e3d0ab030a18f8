"""`python -m reckoner` and the installed command `reckon`."""

from __future__ import annotations

import gc
import sys

from reckoner import cli


def main() -> int:
    """One command as a process of its own: `cli.main`, and a quick end."""
    try:
        return cli.main()
    finally:
        gc.freeze()  # else the interpreter's last collection walks all of torch and transformers: 2 s


if __name__ == "__main__":
    sys.exit(main())
