"""Customer service: questions of a shop's customers, answered from its own articles or by its own people."""
