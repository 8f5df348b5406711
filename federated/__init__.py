"""A federation of hospitals on Flower: honest, hostile, private. May use all other packages."""
