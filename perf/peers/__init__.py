"""Other engines on the same records: the shared feed, the terms, an environment and a runner each."""
