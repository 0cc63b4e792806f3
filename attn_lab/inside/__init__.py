"""What happens inside a step, for probes and for people's own loops alike; knows no Trial."""
