"""Brokers: where messages wait, are leased and settled; `base` is the port, each other module an adapter."""
