"""The smallest edits of prompts that change an answer."""
