"""A report written down: HTML, Markdown and figure files, all from the same blocks."""
