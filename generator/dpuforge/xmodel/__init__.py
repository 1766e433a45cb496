"""The .xmodel file without AMD's tools (read, write, show, diff, run); knows nothing of specs or of the emulator."""
