"""Stubs and functional operations as modules."""
