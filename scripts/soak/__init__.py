"""What scripts/soak_training.py does."""
