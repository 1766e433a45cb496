"""From compiled network to measured truth: a board reached over ssh, what it ran, and whether it was right."""
