"""What each stage of a pipeline compares beside its records."""
