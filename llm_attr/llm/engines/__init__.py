"""Scoring with a model that is behind a server: dialects, the client, calibration, and the model's stand-in."""
