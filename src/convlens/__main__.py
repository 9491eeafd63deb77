"""Run ``python -m convlens COMMAND key=value …`` if the script ``convlens`` is not on the path."""

import sys

from convlens.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
