"""One published estimator a file."""
