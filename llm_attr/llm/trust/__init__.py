"""How far an explanation can be trusted: judged by coalitions that it did not see."""
