"""Jobs of many rows: batch_inference and evaluation (docs/row-jobs.md)."""
