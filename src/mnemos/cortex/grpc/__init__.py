"""CORTEX for workers: the contract of cortex.proto, served over gRPC."""
