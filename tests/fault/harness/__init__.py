"""Tens of thousands of tasks on real adapters, with faults injected beneath them from a seed, and the counting after it.

    DISPATCHER_TEST_FAULTS="redis/dynamodb 12345 20000" pytest -s tests/fault/test_faults_beneath_adapters.py

runs 20,000 tasks on that pair from seed 12345 and prints what was injected and counted; a comma separates several runs.
A failing test prints the line that repeats it. Everything is one thread and one clock, so that a seed repeats a run
exactly, but for pairs with Redis: its server is a real one with a clock of its own, so there a seed repeats the plan and
the faults, and not each moment.

The words, each a module:

* `plan`: the tasks of a run, and how each must end;
* `injector`: draws faults from the seed, counts each kind, and decides where workers die or overtake each other;
* `sqs`, `dynamodb`: models of the two services, which answer beneath botocore, by the run's clock; they keep the same
  contract suites as the adapters over HTTP (`tests/fault/test_harness.py`);
* `wire`: the faults between botocore and those; `proxy`: the faults between redis-py and a real server;
  `disk`: the faults of SQLite's file;
* `tasks`: the app; `workers`: its workers, local (`ConsumerLoop`) and Lambda (the handler behind a mapping);
* `ledger`: what happened, and `verdict`: what of that must not have happened;
* `world`: all of it put together, for one pair.
"""
