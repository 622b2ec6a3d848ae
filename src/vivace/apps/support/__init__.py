"""Customer service: a complete application for a small shop, on any OpenAI-compatible server."""
