"""The same, with the routes `async def`: boto3 then blocks the event loop. Often seen."""

import functools

from fastapi import FastAPI
from mangum import Mangum

from bench.baselines import fastapi_boto3

app = FastAPI(title="Orders")


def blocking(function):
    @functools.wraps(function)
    async def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


for route in fastapi_boto3.app.routes:
    if hasattr(route, "response_model"):
        app.add_api_route(
            route.path,
            blocking(route.endpoint),
            methods=route.methods,
            response_model=route.response_model,
            status_code=route.status_code,
        )

handler = Mangum(app, lifespan="off")
