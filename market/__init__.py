"""What the market did: instruments, bars, funding, and where they are kept."""
