"""Conversations written by us, by program: each module yields endless ones from a `Draw`."""
