"""Where and why a quantised network loses accuracy, and what helps."""
