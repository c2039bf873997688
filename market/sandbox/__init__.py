"""A simulated venue on loopback that speaks the real venues' protocols."""
