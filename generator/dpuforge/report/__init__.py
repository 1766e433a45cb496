"""Results in build/<project>/ -> report.json, report.md and report.html."""
