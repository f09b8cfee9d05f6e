"""PostgreSQL as the store's database, shared by any number of CORTEX processes."""
