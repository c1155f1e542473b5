"""Scale by simulation: the real handler, its adapters and the producer against a model of AWS in virtual time.

What is real: everything of `dispatcher` from ``send_many`` to the partial batch response, both AWS adapters included.
What is modelled: the services behind the botocore clients, the event source mapping, Lambda's concurrency, time.
"""
