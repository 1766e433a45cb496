"""Stages on a cluster: each is handed to Snakemake's executor plugins as a job of its own."""
