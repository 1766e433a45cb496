"""Joins specs, results, xmodel and hardware for the report."""
