"""Model code that travels with a checkpoint."""
