"""Sources -> tokens -> the global order -> batches."""
