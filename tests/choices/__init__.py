"""Tests of what a person may choose from: the wizard of init, and what a shell completes."""
