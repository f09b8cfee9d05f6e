"""MNEMOS: the platform around NEURON workers (CORTEX jobs, GENOME models, ENGRAM files)."""

from importlib.metadata import version

__version__ = version("mnemos-neuron")
