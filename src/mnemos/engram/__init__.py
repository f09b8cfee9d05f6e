"""ENGRAM: where the models' files lie. One URL, `file:///…` or `s3://…`, one behaviour."""
