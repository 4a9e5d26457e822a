"""Things to look at: figures and HTML pages."""
