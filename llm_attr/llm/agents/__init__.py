"""Agents: what changed when a step came in, and whether untrusted text carries an action."""
