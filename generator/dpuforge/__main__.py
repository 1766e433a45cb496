"""Lets `python -m dpuforge` stand for the dpuforge command; an older Python than it needs is told so in one line."""

import sys

if tuple(sys.version_info[:2]) < (3, 10):
    print("dpuforge needs Python 3.10 or newer; this is Python " + sys.version.split()[0], file=sys.stderr)
    sys.exit(4)

from dpuforge.cli import main

main()
