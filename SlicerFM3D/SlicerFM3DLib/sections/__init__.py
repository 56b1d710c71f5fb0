"""The panel's sections in the order of work; each class shows one file of ``Resources/UI``."""
