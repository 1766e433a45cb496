"""Run the generated scripts, stage by stage, where the toolchain is, and keep what they leave behind."""
