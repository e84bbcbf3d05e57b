"""The `skillaudit` command. One module per command; the logic is the parts'."""

from skillaudit.cli.app import main

__all__ = ["main"]
