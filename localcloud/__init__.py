"""The project's AWS on one machine, deployed from the same templates. Not part of the product.

`make run`       `run.py`       the API with reload; its table, queues and functions without Docker
`make test`      `embedded.py`  the same AWS as a fixture: `with embedded_aws() as aws: ...`
`make cloud-up`  `cloud.py`     both runtimes in containers, by `sam deploy` itself

Underneath is ministack (`emulator.py` starts it, `bridges.py` adds what it lacks, `coverage.py` says
which resource types work and which are only recorded). `emulator.py`, `bridges.py` and `deploy.py` run
in `.venv-local`; the rest needs the standard library only.
"""
