"""What ``python -m unio`` runs."""

import signal
import sys

if __name__ == "__main__":
    # Ctrl-C ends the command as it ends any other, and from here on: the rest of it is yet to be imported, and Python's
    # own handler would raise in the middle of that. Who started it with the signal ignored wants it ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from unio.cli import main

    sys.exit(main())
