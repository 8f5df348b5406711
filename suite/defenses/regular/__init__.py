"""Training that remembers less or trusts labels less: regularization, other labels, other data."""
