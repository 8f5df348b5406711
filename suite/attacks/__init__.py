"""Attacks that know neither tables nor images.

`gradient`: FGSM, BIM, PGD, MI-FGSM. `apgd`: Auto-PGD. `minimal`: DeepFool and Carlini-Wagner, for the smallest
perturbation. `noise`: the random control. `query`: attacks that only ask. `poisoning`: changed training labels.
"""
