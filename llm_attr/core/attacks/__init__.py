"""Attacks along the gradient of a loss, and calls of a model on many perturbed inputs."""
