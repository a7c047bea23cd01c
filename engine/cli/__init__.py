"""The `seldon` command line: parse arguments, call the product, print."""

from engine.cli.main import main

__all__ = ["main"]
