"""Sources -> tokens -> the global order of samples -> batches."""
