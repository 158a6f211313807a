"""Statistics over runs and samples: NumPy and SciPy only, every number with its n and interval."""
