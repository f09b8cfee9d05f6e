"""CORTEX for people and programs: HTTP under /api/v1."""
