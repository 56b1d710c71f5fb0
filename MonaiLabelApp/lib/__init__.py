"""The parts of the app; ``main.py`` only makes the app class visible to MONAI Label."""
