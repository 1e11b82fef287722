"""Servers that speak the providers' real wire on a loopback port, for tests only."""
