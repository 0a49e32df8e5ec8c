"""Backward rules: DeepLIFT, LRP, guided gradients."""
