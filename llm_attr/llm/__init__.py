"""Language-model explanations."""
