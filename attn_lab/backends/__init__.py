"""One implementation of attention a file."""
