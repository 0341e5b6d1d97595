"""The search: spaces, samplers, schedulers, the study and the trials on Ray."""
