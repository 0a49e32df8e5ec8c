"""What changed between two explanations, and whether it is more than their noise."""
