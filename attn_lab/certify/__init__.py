"""Verification of everything that backends declare, on this machine, kept as data that the layer goes by."""
