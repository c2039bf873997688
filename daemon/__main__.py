"""Lets ``python -m daemon`` stand for ``ballast``."""

from __future__ import annotations

import sys

from daemon.cli import main

if __name__ == "__main__":
    sys.exit(main())
