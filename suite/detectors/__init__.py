"""Detectors: how suspicious an input is: how unlike the clean training data, or how unsure of it the network is."""

from suite.detectors._torch import TorchDetector
from suite.detectors.density import KernelDensity
from suite.detectors.distance import Mahalanobis, Neighbors
from suite.detectors.lid import LID
from suite.detectors.squeezing import BitDepth, Squeezing
from suite.detectors.uncertainty import Uncertainty

__all__ = ["LID", "BitDepth", "KernelDensity", "Mahalanobis", "Neighbors", "Squeezing", "TorchDetector",
           "Uncertainty"]
