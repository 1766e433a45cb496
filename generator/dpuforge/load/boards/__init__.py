"""What is known of boards: the catalogue of YAML files, the DPU that a name stands for, what a board said itself."""
