"""Many cases: planned from configuration, run one after another, summed up."""
