"""What a run leaves: a folder with a manifest and shards."""
