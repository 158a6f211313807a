"""The built-in engine: data, losses, metrics, the training loop and sweeps."""
