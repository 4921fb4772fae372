"""Completion on the command line: what the CLI takes, and a script of it for each shell."""
