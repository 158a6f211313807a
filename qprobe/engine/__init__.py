"""The built-in engine: data, losses, metrics, training."""
