"""Backends in models of other libraries, by one line each; one library a file, imported only with it."""
