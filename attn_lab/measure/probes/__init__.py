"""What looks at a trial: one probe a file."""
