"""Detectors: how suspicious an input is. All but feature squeezing measure how unlike the clean training data it is."""

from suite.detectors._torch import TorchDetector
from suite.detectors.density import KernelDensity
from suite.detectors.distance import Mahalanobis, Neighbors
from suite.detectors.lid import LID
from suite.detectors.squeezing import BitDepth, Squeezing

__all__ = ["LID", "BitDepth", "KernelDensity", "Mahalanobis", "Neighbors", "Squeezing", "TorchDetector"]
