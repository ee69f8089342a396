"""The `launch` command: one file per verb; argument parsing and printing, nothing else."""
