"""Delivery: package once, deploy anywhere, roll back, destroy.

The commands are make targets; see docs/delivery.md.

decide.py    what to do, as pure functions of what is there
artifact.py  the packaged artifact and its key, the hash of the sources
stack.py     CloudFormation: change sets, progress, reasons
data.py      what a stack leaves behind: is there data in it, what it costs, how it is removed
"""
