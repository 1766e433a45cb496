"""What a person may choose from: the questions of init, and the words that a shell completes."""
