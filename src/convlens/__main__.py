"""``python -m convlens COMMAND key=value …``, where the script ``convlens`` is not at hand."""

import sys

from convlens.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
