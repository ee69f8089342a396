"""Parameter groups (facts x width -> lr, decay), optimizers, schedules."""
