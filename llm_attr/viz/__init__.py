"""Pictures of attributions: one colour scale, and views for the terminal, HTML and matplotlib."""
