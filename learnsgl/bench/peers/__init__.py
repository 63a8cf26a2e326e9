"""The engines that `learnsgl bench offline` measures, each behind the same small interface, each in its own process."""
