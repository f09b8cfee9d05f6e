"""The API that OpenAI's clients speak, under /v1; each request becomes durable jobs."""
