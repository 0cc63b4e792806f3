"""Looking inside a training loop of one's own: the lab's probes, records and loggers, without a case or a sweep."""
