# convlens in a container; docs/install.md shows how to use it.
#
#   docker build -t convlens .                             for the CPU
#   docker build -t convlens:cuda --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 \
#       --build-arg TORCH_BACKEND= .                       for NVIDIA GPUs
#
# BASE is any image of Debian 12 or Ubuntu 24.04, or later. TORCH_BACKEND=cpu selects the small build
# of torch; empty, the one on the package index, which brings its own CUDA libraries. EXTRAS are
# names of extras in pyproject.toml, separated by blanks, such as "export serve".
ARG BASE=debian:13-slim

# hadolint ignore=DL3006
FROM ${BASE} AS python
# torch.compile needs a compiler and Python's headers; downloads need certificates
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
ARG TORCH_BACKEND=cpu
ARG EXTRAS=
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==0.13.9 \
    && python3 -m venv --without-pip /opt/convlens
WORKDIR /source
# the libraries first: this layer stays the same until they change
COPY pyproject.toml requirements.lock ./
RUN set --; \
    for extra in ${EXTRAS}; do set -- "$@" --extra "${extra}"; done; \
    if [ -n "${TORCH_BACKEND}" ]; then set -- "$@" --torch-backend "${TORCH_BACKEND}"; fi; \
    /opt/uv/bin/uv pip install "$@" --no-cache --compile-bytecode \
    --python /opt/convlens/bin/python \
    --constraints requirements.lock --requirements pyproject.toml
COPY README.md LICENSE ./
COPY src src
COPY callbacks callbacks
COPY configs configs
RUN /opt/uv/bin/uv pip install --no-cache --compile-bytecode --no-deps \
    --python /opt/convlens/bin/python .

FROM python
COPY --from=build /opt/convlens /opt/convlens
# Any user may write here, so that `docker run --user` works with the owner of a mounted folder.
RUN useradd --uid 10001 --create-home convlens \
    && install --directory --mode 1777 /convlens /convlens/outputs /data /cache
ENV PATH=/opt/convlens/bin:$PATH \
    USER=convlens \
    CONVLENS_DATA=/data \
    CONVLENS_WEIGHTS=/weights \
    CONVLENS_CACHE=/cache/convlens \
    XDG_CACHE_HOME=/cache \
    XDG_CONFIG_HOME=/cache \
    TRITON_HOME=/cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# a number, so that Kubernetes can check that it is not root
USER 10001
WORKDIR /convlens
VOLUME ["/convlens/outputs", "/data", "/cache"]
EXPOSE 6006
ENTRYPOINT ["convlens"]
CMD ["help"]
