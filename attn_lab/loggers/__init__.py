"""Where records are put: one logger a file."""
