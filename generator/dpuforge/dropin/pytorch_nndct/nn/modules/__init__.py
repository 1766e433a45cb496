"""Functional operations as modules."""
