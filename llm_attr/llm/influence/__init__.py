"""The influence of training texts on answers of a language model: an index on disk, and queries of it."""
