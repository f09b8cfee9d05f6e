"""GENOME: what models there are, where their files lie and how they are run."""
