"""Attacks on what makes an image: its squares, pixels, shapes, light and frequencies."""
