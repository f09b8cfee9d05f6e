"""Every test here runs against real processes."""

from system_fixtures import stack, tiny_model

__all__ = ["stack", "tiny_model"]
