"""KV memory as the scheduler sees it: page numbers, who holds them, and which prefixes can be shared."""
