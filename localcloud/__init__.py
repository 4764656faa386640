"""The project's AWS on one machine, deployed from the same templates. Not part of the product.

`make run`       `run.py`       the API with reload; its table, queues and functions without Docker
`make test`      `running.py`   the same emulator as a fixture: `with running_emulator() as aws: ...`
`make cloud-up`  `cloud.py`     both runtimes in containers, by `sam deploy` itself

Underneath is ministack (`emulator.py` starts it, `patches/` adds what it lacks, `coverage.py` says
which resource types are supported, partial or stubs). `emulator.py`, `patches/` and `deploy.py` run
in `.venv-local`; the rest needs the standard library only.
"""
