"""`python -m reckoner` and the installed command `reckon`."""

from __future__ import annotations

import sys

from reckoner.cli import main

if __name__ == "__main__":
    sys.exit(main())
