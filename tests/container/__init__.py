"""Stages in a container: a real engine with stand-ins for AMD's tools, and a fake engine for its faults."""
