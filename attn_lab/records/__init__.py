"""The records of cases: one shape in memory, one file format, one store; a run, its loggers and reports meet here."""
