"""Lets `python -m dpuforge` stand for the dpuforge command."""

from dpuforge.cli import main

main()
