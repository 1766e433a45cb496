"""Rules of single sections of a spec that are many enough for a module of their own."""
