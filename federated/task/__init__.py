"""The network that hospitals train, and one hospital's training step by step."""
