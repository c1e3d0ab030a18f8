"""The packed forward pass: weights, and keys and values."""
