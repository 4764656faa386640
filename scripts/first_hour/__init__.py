"""The first hour on an AWS account as one command: `make test-aws`. docs/proven.md says what it proves.

run.py      steps in sequence, what became of each, the report; knows no AWS
steps.py    the steps, each the commands of a user and what must be true after them
stage.py    the throw-away stage: its commands, its stacks, its API
callers.py  callers who place, change and read orders all the time, and believe nothing
left.py     what of the stage is still there, asked of each service by name
"""
