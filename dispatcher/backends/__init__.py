"""Result backends: where the records of tasks are; `base` is the port, each other module an adapter."""
