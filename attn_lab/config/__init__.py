"""The configuration: its schema, how it is composed, and the cases that are built from it."""
