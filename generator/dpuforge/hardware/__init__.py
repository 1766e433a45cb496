"""What a DPU can run and how fast: fingerprints, operator limits, partition, workload and latency; knows no specs."""
