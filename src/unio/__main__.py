"""What ``python -m unio`` runs."""

import sys

from unio.cli import main

if __name__ == "__main__":
    sys.exit(main())
