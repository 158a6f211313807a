"""The built-in engine: data, training, metrics, checkpoints and sweeps."""
