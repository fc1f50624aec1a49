"""`python -m runs` is `clew`."""

from runs.cli import main

if __name__ == "__main__":
    main()
