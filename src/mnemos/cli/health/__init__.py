"""What `mnemos doctor` looks at."""
