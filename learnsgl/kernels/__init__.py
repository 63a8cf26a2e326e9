"""The Triton kernels of the GPU engine, each beside its plain-torch reference; models and attention backends call them.

Every kernel has a function that makes its `Launch` (which a test compiles for GPUs that aren't there), one that runs
it, one that tells the bytes it must move (the benchmark's floor), and a reference. `docs/kernels.md` is the map.
"""
