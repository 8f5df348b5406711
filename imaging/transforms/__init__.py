"""Cosine transforms, splines and warps of images."""
