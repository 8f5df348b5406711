"""Federated training as a defense, of networks and of boosted trees."""
