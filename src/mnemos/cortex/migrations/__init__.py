"""The schema's history, run forward whenever CORTEX starts."""
