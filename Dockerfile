# The program as an image: docs/operations.md shows how to build and run it. Versions are pinned in setup.cfg alone.
ARG BASE=python:3.11-slim-bookworm

# Dependencies first and in a layer of their own: several GB with CUDA, and they change only with setup.cfg.
FROM ${BASE} AS dependencies
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# A base image of another day brings other packages: none is pinned.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
WORKDIR /build
COPY Makefile setup.cfg pyproject.toml ./
# The packages that setup.cfg lists stay empty here: what is installed are their dependencies. A pip.conf may be given
# as a secret: it is seen by this one command and leaves no trace in the image.
# hadolint ignore=SC2046,DL4006
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    mkdir -p $(sed -n '/^packages =/,/^[^ ]/s/^ \+//p' setup.cfg | tr . /) && \
    make setup VENV=/opt/adatt DEVICE=${DEVICE} INSTALL="'.[${DEVICE}]'"

# The program alone goes to /program. It is copied from there: buildah and podman, unlike Docker, take a step that only
# mounts another stage from their cache even if that stage has changed.
FROM dependencies AS program
COPY . .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/adatt/bin/pip install --no-deps --force-reinstall --root /program .

FROM ${BASE}
# tini is process 1: it hands signals on, which the kernel keeps from a process 1 that has no handler, and reaps orphans.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
RUN useradd --uid 10001 --no-create-home adatt && install --directory --owner=adatt /adatt/datasets /adatt/runs
COPY --from=dependencies /opt/adatt /opt/adatt
COPY --from=program /program/opt/adatt /opt/adatt
COPY configs /adatt/configs

# HOME and USER for libraries that ask, whatever user the container is started as. No folder that is mounted under
# /adatt can shadow a package (PYTHONSAFEPATH).
ENV PATH=/opt/adatt/bin:$PATH HOME=/tmp USER=adatt PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /adatt
USER 10001
ENTRYPOINT ["tini", "--", "python", "-m", "launch.entrypoint"]
CMD ["--help"]
