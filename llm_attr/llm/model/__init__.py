"""The language model: adapter, backend, fingerprint, cost and speed."""
