"""The Lambda side: an SQS batch in, the executor, a partial batch response out."""
