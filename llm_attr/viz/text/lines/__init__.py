"""Views of text attributions in a terminal."""
