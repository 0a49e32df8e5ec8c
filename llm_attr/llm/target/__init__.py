"""What is explained: an answer, a region of it, a quantity."""
