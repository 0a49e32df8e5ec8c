"""Features, coalitions and the game that they play."""
