"""Tests of the tuner: the climb with made-up trials, and whole tunes."""
