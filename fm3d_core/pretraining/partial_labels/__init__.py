"""Supervised pretraining on many sets of which each has only some structures labelled (FSEFT)."""
