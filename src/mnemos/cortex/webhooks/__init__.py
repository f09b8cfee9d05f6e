"""Telling others that a batch has ended: endpoints, signatures, and a durable outbox."""
