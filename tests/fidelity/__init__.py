"""Every recorded network through the emulator, and what differs from the real quantizer."""
