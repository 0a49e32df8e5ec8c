"""One explanation by several processes."""
