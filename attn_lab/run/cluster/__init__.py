"""Remote workers on the machines of a cluster."""
