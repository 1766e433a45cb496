"""Commands on many runs: several specs at once, sweeps, history."""
