"""A stand-in for OpenCV: a camera that gives the frames that FAKE_CV2 lists, a letter each, and writes videos as text.

d and b are dark and bright frames, x is one that does not come, ! ends the camera until it is opened again.
"""

import os
import time

import numpy as np

CAP_GSTREAMER = 1800
_left = list(os.environ.get("FAKE_CV2", ""))


class VideoCapture:
    """One opened camera."""

    def __init__(self, source, kind=0):
        self.open = source != "absent" and bool(_left)

    def isOpened(self):
        """Say whether it was opened."""
        return self.open

    def read(self):
        """Return the next frame."""
        time.sleep(float(os.environ.get("FAKE_CV2_SECONDS", "0")))
        if not self.open or not _left:
            return False, None
        letter = _left.pop(0)
        if letter in "x!":
            self.open = letter != "!"
            return False, None
        return True, np.full((40, 50, 3), {"d": 10, "b": 250}[letter], np.uint8)

    def release(self):
        """Close it."""
        self.open = False


def VideoWriter_fourcc(*letters):
    """Return a code."""
    return "".join(letters)


class VideoWriter:
    """Writes one line a frame."""

    def __init__(self, path, code, rate, size):
        self.stream = open(path, "w")  # noqa: SIM115

    def isOpened(self):
        """Say whether it was opened."""
        return True

    def write(self, frame):
        """Write the frame's shape."""
        print(frame.shape, file=self.stream)

    def release(self):
        """End the file."""
        self.stream.close()
