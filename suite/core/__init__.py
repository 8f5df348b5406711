"""The contracts: data, inputs that are possible, classifiers, recipes, defenses, detectors, attacks."""
