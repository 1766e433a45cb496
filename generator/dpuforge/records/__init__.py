"""Frozen nouns that cross the borders between packages."""
