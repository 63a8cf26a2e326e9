"""What `learnsgl trace verify` proves, one file a subject; `trace/verify.py` runs them all in one pass."""
