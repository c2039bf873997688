"""What keeps it running: the decision loop, scheduling, monitoring and the command line."""
