"""From a budget to a variant: what to do to a model, and how to serve it, so that it keeps limits on this machine."""
