"""The parts of bench/queue.py: our system, its peers, and what is asked of each."""
