# One image, every process: `simplenet up` (default), `simplenet dashboard`, `simplenet worker`, `simplenet mlflow`,
# `simplenet serve`.
#   docker build -t simplenet-automl .                                   runs on CUDA and on the CPU, about 7 GB
#   docker build -t simplenet-automl --build-arg TORCH_INDEX=ADDRESS .   CPU only; docs/deployment.md says which ADDRESS
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
# Address of an index with torch and torchvision wheels; empty: the usual ones, which bring CUDA's libraries along.
ARG TORCH_INDEX=
ARG EXTRAS=postgres
WORKDIR /source
RUN python -m venv /opt/simplenet
ENV PATH=/opt/simplenet/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md ./
# Dependencies first, without our packages: a changed line of code does not download torch again.
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install --index-url "$TORCH_INDEX" --constraint constraints.txt torch torchvision; \
    fi \
    && pip install --constraint constraints.txt ".[$EXTRAS]"
COPY engine engine
COPY storage storage
COPY tuning tuning
COPY dashboard dashboard
RUN pip install --no-deps --force-reinstall .

FROM python:${PYTHON}-slim
# The home must exist and belong to the user before a volume is mounted on it: a new volume takes its owner from here.
RUN useradd --uid 10001 --create-home simplenet \
    && install --directory --owner=simplenet --group=simplenet /var/lib/simplenet
COPY --from=build /opt/simplenet /opt/simplenet
ENV PATH=/opt/simplenet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SIMPLENET_HOME=/var/lib/simplenet \
    SIMPLENET_HOST=0.0.0.0 \
    HF_HOME=/var/lib/simplenet/hub
# A number, because Kubernetes can tell only from that that it is not root.
USER 10001
WORKDIR /var/lib/simplenet
EXPOSE 8501 5000 8600
ENTRYPOINT ["simplenet"]
CMD ["up"]
