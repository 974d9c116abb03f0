"""Named models of the literature, each runnable: `python -m models.NAME --help`."""
