"""Tests of load: spec text to Project."""
