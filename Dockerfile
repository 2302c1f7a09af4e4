# The image of the sidecar. What it holds, and what was tried: docs/image.md. `make image` builds it.
ARG BASE=python:3.15-slim

FROM ${BASE} AS build
# The same files whenever they are built: wheels made here, whose hashes pip writes down, get this time, zip's earliest.
ENV SOURCE_DATE_EPOCH=315532800
WORKDIR /build
RUN python3 -m venv tools
COPY requirements-build.txt ./
RUN tools/bin/pip install --quiet --no-cache-dir --require-hashes -r requirements-build.txt

# Before the project itself, because they change less often. Wheels only, but for PyYAML, of which there is none for
# Python 3.15 yet. Where there is no compiler, its source makes one that is Python alone, for every architecture.
COPY requirements.txt ./
RUN tools/bin/pip wheel --quiet --no-cache-dir --wheel-dir wheels --no-deps --no-build-isolation \
      --require-hashes --only-binary=:all: --no-binary=pyyaml -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY sidecar sidecar
RUN tools/bin/pip wheel --quiet --wheel-dir wheels --no-deps --no-build-isolation . \
 && python3 -m venv --without-pip /opt/leader-elector \
 && tools/bin/pip --python /opt/leader-elector install --quiet --no-index --no-deps --no-compile wheels/*.whl

# With lazy imports nothing ever loads the generated models and what calls with them: 44 MiB with their bytecode. That
# all else works without them, is proved here. electionctl is for where people are, and takes libraries of its own.
# Bytecode is not compared with its source when it is loaded: nobody edits that here, and so it does not matter which
# times a registry or a node gives to files. It leaves out the columns that a traceback would underline.
COPY tests/image/check.py ./
RUN cd /opt/leader-elector/lib/python3*/site-packages \
 && python3 -c 'import sys; sys.set_lazy_imports("all")' \
 && rm -r kubernetes_asyncio/client/api kubernetes_asyncio/client/models \
 && rm /opt/leader-elector/bin/electionctl \
 && PYTHONNODEBUGRANGES=1 python3 -m compileall -q --invalidation-mode=unchecked-hash . \
 && /opt/leader-elector/bin/python3 -B /build/check.py

# The names that charts written for the stock image start it by. The shell of /run.sh is replaced by the program, so that
# signals reach it.
RUN mkdir -p entry/app \
 && printf '#!/bin/sh\nexec /server "$@"\n' > entry/run.sh \
 && chmod 755 entry/run.sh \
 && ln -s /opt/leader-elector/bin/leader-elector entry/server \
 && ln -s /opt/leader-elector/bin/leader-elector entry/app/server

FROM ${BASE}
COPY --from=build /opt/leader-elector /opt/leader-elector
COPY --from=build /build/entry /
# The official image has no bytecode of the standard library, and whoever this one runs as cannot write any. What
# another base has is replaced, so that all are the same.
RUN PYTHONNODEBUGRANGES=1 python3 -m compileall -q -f --invalidation-mode=unchecked-hash \
      -x '/(ensurepip|idlelib|site-packages|test|tkinter|turtledemo)/' \
      "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# TMPDIR: where a root file system that is read-only can be written to, and in memory; the certificates and keys that a
# kubeconfig holds are put there.
ENV PATH=/opt/leader-elector/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=/dev/shm
WORKDIR /
USER 65532:65532
EXPOSE 4040
ENTRYPOINT ["/opt/leader-elector/bin/leader-elector"]

ARG BASE
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="leader-elector" \
      org.opencontainers.image.description="Leader election for pods: a drop-in replacement for the stock Kubernetes leader-elector sidecar" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
