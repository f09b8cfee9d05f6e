"""The worker's data: pydantic models that travel between its parts."""
