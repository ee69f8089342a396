"""Where it runs: turns "this command on N nodes x M processes" into a script for one kind of machine."""
