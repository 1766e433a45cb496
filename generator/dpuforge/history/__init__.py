"""What was run, when, from which spec and with what outcome: rows that are only ever added to build/history/."""
