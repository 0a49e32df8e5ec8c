"""The sources of each sentence of an answer, and the sentences that have none."""
