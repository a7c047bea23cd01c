"""The `seldon` command line: parse arguments, call the product, print."""

import sys

# As shells tell it of what Ctrl-C ended.
INTERRUPTED = 130

try:
    from engine.cli.main import main
except KeyboardInterrupt:
    # Reading the commands takes a moment, and who thinks better of it wants no trace of where that was.
    sys.exit(INTERRUPTED)

__all__ = ["main"]
