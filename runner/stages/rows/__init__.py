"""What `prepare` and `train` share: files of rows that take a library to read."""
