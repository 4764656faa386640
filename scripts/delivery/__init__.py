"""Delivery: package once, deploy anywhere, roll back, destroy.

The commands are make targets; see docs/delivery.md.

__main__.py  what is asked: reads the command line, judges it without AWS
decide.py    what is decided, as pure functions of what is there
deploy.py    what is done: package, deploy, deploy_cdn, roll_back, drift, bootstrap
destroy.py   what is done: destroy, clean_up_previews
stacks.py    what both share: clients, the stacks of a stage, its bootstrap
artifact.py  the packaged artifact and its key, the hash of the sources
cdn.py       what the CloudFront distribution and its web ACL are given
data.py      what a stack leaves behind: what it costs, how it is removed
"""
