"""Tens of thousands of tasks on real adapters, with faults injected beneath them from a seed, then the counting.

    DISPATCHER_TEST_FAULTS="redis/dynamodb 12345 20000" pytest -s tests/fault/test_faults_beneath_adapters.py

runs 20,000 tasks on that pair from seed 12345 and prints what was injected and counted; commas separate several runs.
A failing test prints the line that repeats it. All workers take turns in one thread, and overtake each other in the
middle of calls and runs where the seed says so. A seed repeats the plan and the order in which faults are drawn; what
goes by the machine's own clock (Redis, SQLite's waits for locks, when an executor writes early) may shift them a bit.

The words, each a module:

* `plan`: the tasks of a run, and how each must end;
* `injector`: draws faults from the seed, counts each kind, and decides where workers die or overtake each other;
* `sqs`, `dynamodb` (with its `expressions`): models of the two services, which answer beneath botocore, by the run's
  clock; they keep the adapters' contract suites (`tests/contract/test_fault_models.py`), as the emulator does;
* `wire`: the faults between botocore and those; `proxy`: the faults between redis-py and a real server;
  `disk`: the faults of SQLite's file;
* `tasks`: the app; `workers`: its workers, local (`ConsumerLoop`) and Lambda (the handler behind a mapping);
* `ledger`: what happened, and `verdict`: what of that must not have happened;
* `world`: all of it put together, for one pair.
"""
