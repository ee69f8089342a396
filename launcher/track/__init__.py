"""Journal, MLflow and console progress."""
