"""The trace: what every process did, complete enough to rebuild the scheduler's state at any event."""
