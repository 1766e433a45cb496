"""Reads what users and the catalogue wrote in YAML into nouns, with every mistake located."""
