"""DeepSpeed: its engine, its configuration, and how ZeRO lays parameters and moments out."""
