"""One mask a file."""
