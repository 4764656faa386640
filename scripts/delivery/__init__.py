"""Delivery: package once, deploy anywhere, roll back, destroy.

The commands are make targets; see docs/delivery.md.

deploy.py    package, deploy, deploy-cdn, rollback, drift, bootstrap
destroy.py   destroy, clean-up-previews
stacks.py    what both share: clients, the stacks of a stage, its bootstrap
decide.py    what to do, as pure functions of what is there
artifact.py  the packaged artifact and its key, the hash of the sources
cdn.py       what the CloudFront distribution and its web ACL are given
data.py      what a stack leaves behind: is there data in it, what it costs, how it is removed
"""
