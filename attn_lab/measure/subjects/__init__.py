"""What is stepped: one subject a file."""
