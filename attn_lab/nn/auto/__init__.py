"""`auto`: the fastest backend, by a table of measurements or measured at first use."""
