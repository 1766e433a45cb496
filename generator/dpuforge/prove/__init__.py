"""What a project left, held against its records: in its folders, or in one archive."""
