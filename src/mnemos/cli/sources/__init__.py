"""Where models come from: the catalogue, the hub, a folder; and how they are published."""
