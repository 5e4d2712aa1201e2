"""The command line: each file parses options, calls the package and prints; `main.py` assembles."""

from ma_agiqa.cli.main import app, main

__all__ = ["app", "main"]
