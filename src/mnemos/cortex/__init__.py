"""CORTEX: takes jobs from people, hands them to workers, and keeps every answer exactly once."""
