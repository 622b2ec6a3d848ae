"""Applications on the server's HTTP API. They import nothing of the engine or the server."""
