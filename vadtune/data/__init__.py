"""Tables, named datasets, masks and splits: what is known, and what a model may see of it."""
