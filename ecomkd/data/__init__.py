"""The data contract, the simulated shop, and every way to load a data set."""
