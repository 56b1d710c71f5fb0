"""Trainings: a folder each, a queue that survives the server, and a process that knows only its folder."""
