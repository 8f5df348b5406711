"""The federation on Flower: client and server apps, the border, secure aggregation, simulation."""
