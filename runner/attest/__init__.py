"""Statements about a finished run in formats that others read, and signatures on them."""
