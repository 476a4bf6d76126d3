"""Training, step by step: both sides from one state."""
