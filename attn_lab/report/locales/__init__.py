"""The texts of a report by language."""
