"""Public weight files as data: a catalogue, one engine that reads and checks them, and a private cache."""
