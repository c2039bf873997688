"""One module for each command of ``ballast``; each offers ``add(subparsers)``."""
