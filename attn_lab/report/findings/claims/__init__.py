"""The nine claims of the seed study, each checked against the records; only in reports of experiment=seed/*."""
