"""The executor that runs the real model: weights, KV pages, forward passes and sampling, in one process."""
