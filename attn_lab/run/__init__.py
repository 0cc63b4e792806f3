"""A sweep: plan the cases, execute them, store their records."""
