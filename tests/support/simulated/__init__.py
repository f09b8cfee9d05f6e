"""A fleet in simulated time: CORTEX over the lease core, workers, people, a bad net."""
