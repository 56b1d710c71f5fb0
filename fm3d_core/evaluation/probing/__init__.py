"""Probing: what the features of a frozen backbone know of whole volumes, asked by linear heads and neighbours."""
