# One image for every function and for the Fargate task. Its default command is the HTTP server; the functions name
# another entry point (ImageConfig in template.yaml).
FROM public.ecr.aws/docker/library/python:3.13-slim AS build
WORKDIR /build
COPY requirements.txt ./
# unchecked-hash: byte code that Python trusts without looking at its source, and that is the same in every build.
RUN pip install --no-cache-dir --no-compile --require-hashes --target packages/opt/python -r requirements.txt \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash packages
COPY src app/opt/app
# One time stamp, so that the same files make the same layer; readable by whatever user Lambda picks.
RUN python -m compileall -q --invalidation-mode unchecked-hash app \
    && chmod -R a+rX,go-w packages app \
    && find packages app -exec touch --no-dereference --date=@315532800 {} +

FROM public.ecr.aws/docker/library/python:3.13-slim
ENV PYTHONPATH=/opt/app:/opt/python PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Packages change less often than our code, so they come first. Whole trees, for their time stamps.
COPY --from=build /build/packages /
COPY --from=build /build/app /
WORKDIR /opt/app
# nobody, by number, so that a platform can tell it is not root.
USER 65534:65534
# Only for an image built on this one: `sam local` installs the emulator of Lambda's runtime, which takes root.
ONBUILD USER root
EXPOSE 8080
# Lambda runs none, and "Amazon ECS doesn't monitor Docker health checks that are embedded in a container image":
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/healthcheck.html
# checkov:skip=CKV_DOCKER_2:the task definition has the check that ECS runs
CMD ["python", "-m", "app.entrypoints.server"]
