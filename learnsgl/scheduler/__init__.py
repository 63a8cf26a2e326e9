"""Which tokens of which requests run next: the scheduler, without torch."""
