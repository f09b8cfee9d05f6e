"""NEURON: a worker that turns a machine into a node of a fault-tolerant inference fleet."""

from importlib.metadata import version

__version__ = version("mnemos-neuron")
