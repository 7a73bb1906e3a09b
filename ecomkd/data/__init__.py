"""Chapters 1 and 10: the data contract, the simulated shop, and every way to load a data set.

`contract` has the words of the contract, `files` reads, `pairs` checks and refuses, `schema` gives
the tables and reports on them, `sources` loads for training; `shop` and `truth` simulate. `baskets`
has purchases, which `journey` and `retail` read.
"""
