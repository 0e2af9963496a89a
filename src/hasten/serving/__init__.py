"""Pictures over HTTP: continuous batching, an API that OpenAI's clients speak, and a page."""
