"""The attention layer that models hold, with a backend that can be swapped."""
