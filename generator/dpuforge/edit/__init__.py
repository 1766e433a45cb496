"""Changes of a spec that a person asked for: single values, another release, other boards."""
