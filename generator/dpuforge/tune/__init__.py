"""The tuner: remedies for what int8 loses, in order of cost, each tried on validation images (docs/many_runs.md)."""
