"""Batches: files of requests that become a group of jobs, and files of their answers."""
