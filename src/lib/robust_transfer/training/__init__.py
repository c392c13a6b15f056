"""Training: the loop, the engine that makes it fast, checkpoints that survive a kill."""
