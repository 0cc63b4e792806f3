"""Into other people's models, one line each: one library a file, loaded when it is imported and not before."""
