"""What a server would do under a load: its own scheduler and admission on a virtual clock, with nothing computed."""
