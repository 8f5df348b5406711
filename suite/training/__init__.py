"""The one training loop, its state, and what is done to a network before and after it."""
