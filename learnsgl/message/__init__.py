"""What the processes say to each other: the wire messages, and the ZMQ channels that carry them."""
