"""What a model is asked, in units."""
