# One image for every stage. The base supplies Python and, on NGC's, torch for CUDA 13 on ARM64.
# Nothing here needs a network other than the package mirrors that the build machine already uses.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:25.11-py3
FROM ${BASE_IMAGE}

# A compiler builds llama.cpp's tools; Go comes from the pinned wheel of environments/tools.lock.
RUN if ! command -v g++ >/dev/null || ! python3 -c 'import ensurepip' 2>/dev/null; then \
      apt-get update -qq \
      && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
           g++ libc6-dev python3-venv ca-certificates >/dev/null \
      && rm -rf /var/lib/apt/lists/*; \
    fi

ENV SPARK_RECIPES_PREBUILT=/opt/spark-recipes/built \
    PYTHONDONTWRITEBYTECODE=1 \
    UV_PYTHON_DOWNLOADS=never \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /opt/spark-recipes
COPY docker/image_identity.py docker/
RUN python3 docker/image_identity.py /etc/spark-recipes/base.json

COPY environments/runner.txt environments/
RUN python3 -m venv venv \
    && venv/bin/python -m pip install --quiet --require-hashes -r environments/runner.txt

# What is heavy and rarely changes comes before the rest of the code, and needs only this much of it.
COPY pyproject.toml ./
COPY environments environments
COPY runner/__init__.py runner/errors.py runner/
COPY runner/store runner/store
COPY runner/system runner/system
RUN venv/bin/python -m runner.system.prebuild

COPY runner runner
COPY schemas schemas
COPY recipes recipes
COPY docs/errors.md docs/
COPY README.md LICENSE ./
RUN venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .

# Not root. Any uid may run it: compose passes the caller's, so that results belong to the caller.
RUN install -d -m 1777 /cache /work && ln -s /opt/spark-recipes/venv/bin/recipe /usr/local/bin/recipe
COPY docker/entrypoint.sh /usr/local/bin/spark-recipes-entrypoint
ENV SPARK_RECIPES_CACHE=/cache \
    HOME=/cache/home
WORKDIR /work
USER 1000:1000
VOLUME /cache
ENTRYPOINT ["spark-recipes-entrypoint"]
CMD ["--help"]
