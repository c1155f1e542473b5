"""``python -m dispatcher.config`` prints ``docs/configuration.md``."""

import sys

from dispatcher.config.reference import markdown

if __name__ == "__main__":
    sys.stdout.write(markdown())
