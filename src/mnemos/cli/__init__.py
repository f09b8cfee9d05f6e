"""The `mnemos` command: the platform in one hand."""
