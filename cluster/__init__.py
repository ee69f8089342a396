"""Where it runs: turns "this command on N nodes x M processes" into text for one kind of machine, and submits it."""
