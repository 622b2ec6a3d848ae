"""Applications on a model server's HTTP interface. They know its addresses and its JSON, and nothing of the engine."""
