"""Attacks of the Adversarial Robustness Toolbox (ART), behind our contracts."""
