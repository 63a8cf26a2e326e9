"""Attention over paged KV: the interface that models call, and the backends behind it."""
