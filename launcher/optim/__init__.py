"""Parameter groups (facts and width -> lr, decay), optimizers and schedules."""
