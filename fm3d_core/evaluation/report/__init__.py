"""A report of an evaluation as one file that opens anywhere: tables, plots, and the worst cases as pictures."""
