"""One HTML page about a run, or several: figures made of the run folder alone."""
