"""How good a model is on data, and how far from another it has come; through the engine and through transformers."""
