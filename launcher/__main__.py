"""`python -m launcher` is `launch`."""

import sys

from launcher.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
