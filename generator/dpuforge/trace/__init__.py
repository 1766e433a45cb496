"""From a line of a generated file back to the keys of the spec; runs only where someone asks."""
