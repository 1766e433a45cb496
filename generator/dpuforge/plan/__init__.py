"""Project -> Plan: what is generated and what is run, decided by two tables; pure, nothing is touched."""
