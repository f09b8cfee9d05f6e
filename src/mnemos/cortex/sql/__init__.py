"""CORTEX's store on SQL."""
