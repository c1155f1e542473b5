"""Local workers: a loop that takes deliveries through the executor, and the pools that run many of them."""
