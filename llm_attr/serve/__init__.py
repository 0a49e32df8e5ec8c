"""A small server over the local scorer, which speaks the dialects of scoring servers; for tests and for trying out."""
