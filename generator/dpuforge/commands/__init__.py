"""The command line: thin functions, arguments -> pipeline -> exit code."""
