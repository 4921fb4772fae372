"""What `fetch` and `fetch_data` share: the hub, and shrunken twins."""
