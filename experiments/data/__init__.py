"""Text as people have it: files, rows and the sources they come from."""
