"""`python -m runs` is `clew`."""

import sys

from runs.cli import main

if __name__ == "__main__":
    sys.exit(main())
