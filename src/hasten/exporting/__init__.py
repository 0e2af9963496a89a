"""A model and its plan as a folder that runs elsewhere, without hasten and without torch."""
