"""The modules that stand for functions."""
