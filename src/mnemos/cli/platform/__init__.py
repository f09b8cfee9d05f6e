"""The whole platform on one machine: servers in this process, workers as its children."""
