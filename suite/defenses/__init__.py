"""Defenses that know neither tables nor images: plain and adversarial training, distillation, DP-SGD, guards."""
