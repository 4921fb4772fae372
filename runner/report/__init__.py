"""One result, many reporters."""
