"""Training against perturbed inputs: adversarial training, distillation, ensembles, smoothing."""
