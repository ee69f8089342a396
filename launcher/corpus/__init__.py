"""From a corpus to a token set: raw files -> documents -> tokens -> shards."""
