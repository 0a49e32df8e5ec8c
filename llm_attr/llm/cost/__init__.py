"""What an explanation will cost."""
