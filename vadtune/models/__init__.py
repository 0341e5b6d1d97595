"""Variational auto-decoders and auto-encoders, their decoder and their objective."""
