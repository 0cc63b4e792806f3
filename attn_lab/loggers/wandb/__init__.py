"""What a team is given once a sweep is over: its runs on W&B, and a workspace to compare them in."""
